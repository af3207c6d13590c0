/*
 * The floor of the benchmarks: what a careful C program on libhiredis needs for the same work.
 *
 * It sends the commands that the library sends (HSET of whole records, XADD to the history with MAXLEN ~ 256, HMGET in the
 * order of the description, MULTI and EXEC around a group), writes values as text that reads back exactly (%.17g) and
 * converts answers with strtod. It speaks RESP2, because the libhiredis of Debian 12 knows no other; the answers to these
 * commands are the same bytes in RESP3.
 *
 *   floor ADDRESS write|one|flush|read|unchanged|turn PREFIX HISTORY COUNT RECORDS PID
 *       prints microseconds a call, those of CPU in this process, and those in the process PID
 *   floor ADDRESS pace PREFIX HISTORY COUNT HERTZ          writes PREFIX0, once a line came on the standard input
 *   floor ADDRESS flood PREFIX HISTORY SECONDS             the same as fast as it goes; both print "writing" and the last number
 *   floor ADDRESS listen|follow|slow PREFIX HISTORY LAST   prints "ready", then what it heard as a line of JSON
 *
 * ADDRESS is a socket's path or HOST:PORT. The records are PREFIX0 .. PREFIX63, their fields ts, sender, field_0 ..
 * field_7; a writer puts CLOCK_MONOTONIC into field_0 and a number into field_1, below 0 while it warms up. HISTORY is 0
 * or 1. worker.py has the same interface.
 */
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RECORDS 64
#define FLOATS 8
#define FIELDS (FLOATS + 2)
#define ROWS 256
#define SENDER "BENCH"
#define SILENCE 2.0 /* seconds without news after which a listener gives up */
#define SLOW 10000  /* microseconds that a slow listener takes for each update */
#define HEARD 2000000

struct command {
    int argc;
    const char *argv[7 + 2 * FIELDS];
    size_t len[7 + 2 * FIELDS];
};

static const char *const NAMES[FIELDS] = {"ts", "sender", "field_0", "field_1", "field_2",
                                          "field_3", "field_4", "field_5", "field_6", "field_7"};
static char keys[RECORDS][64], streams[RECORDS][80];
static double rows[ROWS][FLOATS];
static char texts[RECORDS][FIELDS][32];
static size_t lengths[RECORDS][FIELDS];
static struct command hsets[RECORDS], xadds[RECORDS], hmgets[RECORDS];
static int history, group = 1;
static double sink; /* what was read, so that no compiler leaves the reading out */

static void die(const char *what) {
    fprintf(stderr, "floor: %s\n", what);
    exit(1);
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static redisContext *join(const char *address) {
    const char *colon = strrchr(address, ':');
    char host[64];
    redisContext *c;
    if (colon) {
        snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
        c = redisConnect(host, atoi(colon + 1));
    } else {
        c = redisConnectUnix(address);
    }
    if (!c || c->err) die(c ? c->errstr : "no memory");
    return c;
}

static void add(struct command *command, const char *text) {
    command->argv[command->argc] = text;
    command->len[command->argc++] = strlen(text);
}

/* Everything of the commands that never changes is prepared once; the values are filled in by fill(). */
static void prepare(const char *prefix) {
    srand(1);
    for (int r = 0; r < ROWS; r++)
        for (int f = 0; f < FLOATS; f++) {
            double value = rand() / (RAND_MAX + 1.0) * 200 - 100;
            rows[r][f] = f < FLOATS / 2 ? (long)(value * 1000) / 1000.0 : value;
        }
    for (int i = 0; i < RECORDS; i++) {
        snprintf(keys[i], sizeof keys[i], "%s%d", prefix, i);
        snprintf(streams[i], sizeof streams[i], "%s:history", keys[i]);
        add(&hsets[i], "HSET"), add(&hsets[i], keys[i]);
        add(&xadds[i], "XADD"), add(&xadds[i], streams[i]);
        add(&xadds[i], "MAXLEN"), add(&xadds[i], "~"), add(&xadds[i], "256"), add(&xadds[i], "*");
        add(&hmgets[i], "HMGET"), add(&hmgets[i], keys[i]);
        for (int f = 0; f < FIELDS; f++) add(&hmgets[i], NAMES[f]);
    }
}

static void fill_command(struct command *command, int head, int record) {
    command->argc = head;
    for (int f = 0; f < FIELDS; f++) {
        add(command, NAMES[f]);
        command->argv[command->argc] = texts[record][f];
        command->len[command->argc++] = lengths[record][f];
    }
}

static void fill(int record, const double *values) {
    lengths[record][0] = snprintf(texts[record][0], 32, "%.17g", now(CLOCK_REALTIME));
    lengths[record][1] = snprintf(texts[record][1], 32, "%s", SENDER);
    for (int f = 0; f < FLOATS; f++)
        lengths[record][f + 2] = snprintf(texts[record][f + 2], 32, "%.17g", values[f]);
    fill_command(&hsets[record], 2, record);
    if (history) fill_command(&xadds[record], 6, record);
}

static void append(redisContext *c, struct command *command) {
    if (redisAppendCommandArgv(c, command->argc, command->argv, command->len) != REDIS_OK) die(c->errstr);
}

static redisReply *reply(redisContext *c) {
    redisReply *r;
    if (redisGetReply(c, (void **)&r) != REDIS_OK) die(c->errstr);
    if (r->type == REDIS_REPLY_ERROR) die(r->str);
    return r;
}

static redisReply *last_reply(redisContext *c, int count) {
    while (--count) freeReplyObject(reply(c));
    return reply(c);
}

/* Write the first `records` records: one HSET alone is atomic by itself, all else goes into a transaction. */
static void write_records(redisContext *c, int records, const double *values) {
    int transaction = records > 1 || history, sent = 0;
    if (transaction) redisAppendCommand(c, "MULTI"), sent++;
    for (int i = 0; i < records; i++) {
        fill(i, values);
        append(c, &hsets[i]), sent++;
        if (history) append(c, &xadds[i]), sent++;
    }
    if (transaction) redisAppendCommand(c, "EXEC"), sent++;
    freeReplyObject(last_reply(c, sent));
}

static void decode(const redisReply *record, double *values) {
    char sender[64];
    if (record->elements != FIELDS) die("a record is not complete");
    for (int f = 0; f < FIELDS; f++) {
        const redisReply *value = record->element[f];
        if (value->type != REDIS_REPLY_STRING) die("a record was never written");
        if (f == 0) sink += strtod(value->str, NULL);
        else if (f == 1) snprintf(sender, sizeof sender, "%s", value->str), sink += sender[0];
        else sink += values[f - 2] = strtod(value->str, NULL);
    }
}

static void read_group(redisContext *c) {
    double values[FLOATS];
    redisAppendCommand(c, "MULTI");
    for (int i = 0; i < group; i++) append(c, &hmgets[i]);
    redisAppendCommand(c, "EXEC");
    redisReply *answer = last_reply(c, group + 2);
    for (int i = 0; i < group; i++) decode(answer->element[i], values);
    freeReplyObject(answer);
}

static void read_record(redisContext *c, double *values) {
    append(c, &hmgets[0]);
    redisReply *record = reply(c);
    decode(record, values);
    freeReplyObject(record);
}

static void operate(redisContext *c, const char *operation, int turn) {
    double values[FLOATS];
    if (!strcmp(operation, "write")) write_records(c, 1, rows[turn % ROWS]);
    else if (!strcmp(operation, "flush")) write_records(c, group, rows[turn % ROWS]);
    else if (!strcmp(operation, "read")) read_group(c);
    else if (!strcmp(operation, "unchanged") || !strcmp(operation, "one")) read_record(c, values);
    else if (!strcmp(operation, "turn")) write_records(c, 1, rows[turn % ROWS]), read_group(c);
    else die("no such operation");
}

static void measure(redisContext *c, const char *operation, int count, pid_t pid) {
    clockid_t other;
    if (clock_getcpuclockid(pid, &other)) die("no such process");
    write_records(c, group, rows[0]);
    for (int i = 0; i < count / 10; i++) operate(c, operation, i);
    double others = now(other), own = now(CLOCK_PROCESS_CPUTIME_ID), start = now(CLOCK_MONOTONIC), elapsed;
    int done = 0;
    do {
        for (int i = 0; i < count; i++) operate(c, operation, i);
        done += count;
    } while ((elapsed = now(CLOCK_MONOTONIC) - start) < 0.05);
    own = now(CLOCK_PROCESS_CPUTIME_ID) - own, others = now(other) - others;
    printf("[%.4f, %.4f, %.4f]\n", elapsed / done * 1e6, own / done * 1e6, others / done * 1e6);
}

static void write_number(redisContext *c, long number) {
    double values[FLOATS];
    memcpy(values, rows[number < 0 ? 0 : number % ROWS], sizeof values);
    values[0] = now(CLOCK_MONOTONIC), values[1] = number;
    write_records(c, 1, values);
}

static void warm_up(redisContext *c) {
    struct pollfd go = {0, POLLIN, 0};
    puts("writing"), fflush(stdout);
    for (long number = -1; !poll(&go, 1, 20); number--) write_number(c, number);
}

static void pace(redisContext *c, int count, double hertz) {
    double start = now(CLOCK_MONOTONIC);
    for (int i = 0; i < count; i++) {
        double due = start + (i + 1) / hertz;
        struct timespec until = {(time_t)due, (long)((due - (time_t)due) * 1e9)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        write_number(c, i);
    }
    printf("%d\n", count - 1);
}

static void flood(redisContext *c, double seconds) {
    double end = now(CLOCK_MONOTONIC) + seconds;
    long number = -1;
    while (now(CLOCK_MONOTONIC) < end) write_number(c, ++number);
    printf("%ld\n", number);
}

/* What a listener has heard. */
static struct {
    double *latencies, cpu, news_at;
    long count, number, last, backwards, repeated;
    int slow;
} ear = {.number = -1};

/* Note an update; tell whether it is the last one, or nothing new has come for long. */
static int heard(const double *values) {
    double at = now(CLOCK_MONOTONIC);
    long number = (long)values[1];
    if (number < 0) {
        if (!ear.cpu) puts("ready"), fflush(stdout), ear.cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    } else if (number > ear.number) {
        if (ear.count == HEARD) die("too much was heard");
        ear.latencies[ear.count++] = (at - values[0]) * 1e6;
        ear.number = number, ear.news_at = at;
    } else {
        ear.backwards += number < ear.number;
        ear.repeated += number == ear.number;
    }
    if (ear.slow) usleep(SLOW);
    return ear.number == ear.last || (ear.news_at && at - ear.news_at > SILENCE);
}

static void report(void) {
    printf("{\"us\": [");
    for (long i = 0; i < ear.count; i++) printf(i ? ", %.1f" : "%.1f", ear.latencies[i]);
    printf("], \"last\": %ld, \"backwards\": %ld, \"repeated\": %ld, \"cpu\": %.6f}\n", ear.number, ear.backwards,
           ear.repeated, now(CLOCK_PROCESS_CPUTIME_ID) - ear.cpu);
}

/* Take all messages that are here: the values that are read then know of them. */
static void drain(redisContext *events) {
    struct pollfd more = {events->fd, POLLIN, 0};
    void *r;
    while (poll(&more, 1, 0) > 0)
        if (redisBufferRead(events) != REDIS_OK) die(events->errstr);
    while (redisGetReplyFromReader(events, &r) == REDIS_OK && r) freeReplyObject(r);
}

static void listen_to(redisContext *c, const char *address) {
    redisContext *events = join(address);
    double values[FLOATS];
    freeReplyObject(redisCommand(events, "SUBSCRIBE __keyspace@0__:%s", keys[0]));
    struct pollfd news = {events->fd, POLLIN, 0};
    while (poll(&news, 1, (int)(SILENCE * 1000)) > 0) {
        drain(events);
        read_record(c, values);
        if (heard(values)) break;
    }
    redisFree(events);
}

static int heard_entry(const redisReply *pairs) {
    double values[FLOATS];
    sink += strtod(pairs->element[1]->str, NULL);
    for (int f = 2; f < FIELDS; f++) values[f - 2] = strtod(pairs->element[2 * f + 1]->str, NULL);
    return heard(values);
}

static void follow(redisContext *c) {
    char last[64] = "$";
    for (int over = 0; !over;) {
        redisReply *r = redisCommand(c, "XREAD BLOCK %d STREAMS %s %s", (int)(SILENCE * 1000), streams[0], last);
        if (!r || (over = r->type != REDIS_REPLY_ARRAY)) break;
        const redisReply *entries = r->element[0]->element[1];
        for (size_t i = 0; i < entries->elements && !over; i++) {
            over = heard_entry(entries->element[i]->element[1]);
            snprintf(last, sizeof last, "%s", entries->element[i]->element[0]->str);
        }
        freeReplyObject(r);
    }
}

int main(int argc, char **argv) {
    if (argc < 6) die("usage: floor ADDRESS PART PREFIX HISTORY COUNT|SECONDS|LAST [HERTZ | RECORDS PID]");
    redisContext *c = join(argv[1]);
    const char *part = argv[2], *amount = argv[5];
    prepare(argv[3]);
    history = atoi(argv[4]);
    if (!strcmp(part, "pace") && argc == 7) {
        warm_up(c), pace(c, atoi(amount), atof(argv[6]));
    } else if (!strcmp(part, "flood")) {
        warm_up(c), flood(c, atof(amount));
    } else if (!strcmp(part, "listen") || !strcmp(part, "follow") || !strcmp(part, "slow")) {
        ear.latencies = malloc(HEARD * sizeof *ear.latencies);
        ear.last = atol(amount), ear.slow = !strcmp(part, "slow");
        if (!strcmp(part, "follow")) follow(c);
        else listen_to(c, argv[1]);
        report();
    } else if (argc == 8) {
        group = atoi(argv[6]);
        measure(c, part, atoi(amount), (pid_t)atoi(argv[7]));
    }
    redisFree(c);
    return sink == 0.5;
}
