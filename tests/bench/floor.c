/*
 * The floor of the benchmarks: what a careful C program on libhiredis needs for the same work.
 *
 * It sends the commands that the library sends (HSET of whole records, XADD to the history with MAXLEN ~ 256, HMGET in the
 * order of the description, MULTI and EXEC around a group), writes values as text that reads back exactly (%.17g) and
 * converts answers with strtod. It speaks RESP2, because the libhiredis of Debian 12 knows no other; the answers to these
 * commands are the same bytes in RESP3.
 *
 *   floor SOCKET write|flush|read|unchanged|turn PREFIX HISTORY COUNT     prints microseconds per operation
 *   floor SOCKET pace PREFIX HISTORY COUNT HERTZ                          writes PREFIX0, values[0] = CLOCK_MONOTONIC
 *   floor SOCKET listen|follow PREFIX HISTORY COUNT                       prints "ready", then one latency in us a line
 *
 * The records are PREFIX0 .. PREFIX7, their fields ts, sender, field_0 .. field_7. HISTORY is 0 or 1.
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RECORDS 8
#define FLOATS 8
#define FIELDS (FLOATS + 2)
#define ROWS 256
#define SENDER "BENCH"

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
static int history;
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

static redisContext *join(const char *path) {
    redisContext *c = redisConnectUnix(path);
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

static double decode(const redisReply *record) {
    char sender[64];
    double sum = 0;
    if (record->elements != FIELDS) die("a record is not complete");
    for (int f = 0; f < FIELDS; f++) {
        const redisReply *value = record->element[f];
        if (value->type != REDIS_REPLY_STRING) die("a record was never written");
        if (f == 1)
            snprintf(sender, sizeof sender, "%s", value->str);
        else
            sum += strtod(value->str, NULL);
    }
    return sum + sender[0];
}

static void read_group(redisContext *c) {
    redisAppendCommand(c, "MULTI");
    for (int i = 0; i < RECORDS; i++) append(c, &hmgets[i]);
    redisAppendCommand(c, "EXEC");
    redisReply *group = last_reply(c, RECORDS + 2);
    for (int i = 0; i < RECORDS; i++) sink += decode(group->element[i]);
    freeReplyObject(group);
}

/* Read one record and return its field_0. */
static double read_record(redisContext *c) {
    append(c, &hmgets[0]);
    redisReply *record = reply(c);
    sink += decode(record);
    double first = strtod(record->element[2]->str, NULL);
    freeReplyObject(record);
    return first;
}

static void operate(redisContext *c, const char *operation, int turn) {
    if (!strcmp(operation, "write")) write_records(c, 1, rows[turn % ROWS]);
    else if (!strcmp(operation, "flush")) write_records(c, RECORDS, rows[turn % ROWS]);
    else if (!strcmp(operation, "read")) read_group(c);
    else if (!strcmp(operation, "unchanged")) read_record(c);
    else if (!strcmp(operation, "turn")) write_records(c, 1, rows[turn % ROWS]), read_group(c);
    else die("no such operation");
}

static void measure(redisContext *c, const char *operation, int count) {
    write_records(c, RECORDS, rows[0]);
    for (int i = 0; i < count / 10; i++) operate(c, operation, i);
    double start = now(CLOCK_MONOTONIC);
    for (int i = 0; i < count; i++) operate(c, operation, i);
    printf("%.4f\n", (now(CLOCK_MONOTONIC) - start) / count * 1e6);
}

static void pace(redisContext *c, int count, double hertz) {
    double start = now(CLOCK_MONOTONIC), values[FLOATS];
    for (int i = 0; i < count; i++) {
        double due = start + (i + 1) / hertz;
        struct timespec until = {(time_t)due, (long)((due - (time_t)due) * 1e9)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        memcpy(values, rows[i % ROWS], sizeof values);
        values[0] = now(CLOCK_MONOTONIC);
        write_records(c, 1, values);
    }
}

static void heard(double sent, double *latency) { *latency = (now(CLOCK_MONOTONIC) - sent) * 1e6; }

static void listen_to(redisContext *c, const char *path, int count, double *latencies) {
    redisContext *events = join(path);
    freeReplyObject(redisCommand(events, "SUBSCRIBE __keyspace@0__:%s", keys[0]));
    puts("ready"), fflush(stdout);
    for (int i = 0; i < count; i++) {
        freeReplyObject(reply(events));
        heard(read_record(c), &latencies[i]);
    }
    redisFree(events);
}

static void follow(redisContext *c, int count, double *latencies) {
    char last[64];
    snprintf(last, sizeof last, "$");
    puts("ready"), fflush(stdout);
    for (int i = 0; i < count; i++) {
        redisReply *r = redisCommand(c, "XREAD BLOCK 10000 STREAMS %s %s", streams[0], last);
        if (!r || r->type != REDIS_REPLY_ARRAY) die("no entry within ten seconds");
        const redisReply *entry = r->element[0]->element[1]->element[0], *pairs = entry->element[1];
        double values[FLOATS];
        for (int f = 0; f < FIELDS; f++)
            if (f == 0) sink += strtod(pairs->element[1]->str, NULL);
            else if (f > 1) values[f - 2] = strtod(pairs->element[2 * f + 1]->str, NULL);
        snprintf(last, sizeof last, "%s", entry->element[0]->str);
        heard(values[0], &latencies[i]);
        freeReplyObject(r);
    }
}

int main(int argc, char **argv) {
    if (argc < 6) die("usage: floor SOCKET OPERATION PREFIX HISTORY COUNT [HERTZ]");
    redisContext *c = join(argv[1]);
    const char *operation = argv[2];
    int count = atoi(argv[5]);
    prepare(argv[3]);
    history = atoi(argv[4]);
    if (!strcmp(operation, "pace")) {
        pace(c, count, atof(argv[6]));
    } else if (!strcmp(operation, "listen") || !strcmp(operation, "follow")) {
        double *latencies = calloc(count, sizeof *latencies);
        if (!strcmp(operation, "listen")) listen_to(c, argv[1], count, latencies);
        else follow(c, count, latencies);
        for (int i = 0; i < count; i++) printf("%.3f\n", latencies[i]);
        free(latencies);
    } else {
        measure(c, operation, count);
    }
    redisFree(c);
    return sink == 0.5;
}
