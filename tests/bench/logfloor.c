/*
 * The floor of the log rows: what a careful C program on libhiredis needs for the commands that a TSLog sends.
 *
 *   logfloor SOCKET append KEY RECORDS COMMIT    RECORDS records, COMMIT of them a transaction:
 *                                                MULTI, XADD for each, EXEC, and behind it WATCH and GET of the writer's key
 *   logfloor SOCKET read KEY RECORDS             pages of 1000: MULTI, XRANGE, GET, EXEC; every value is unpacked;
 *                                                the cursor is committed after each page: XINFO STREAM, XINFO GROUPS, SETID
 *
 * Prints microseconds a record. A record is struct "<Qff": a time in ms and two floats.
 */
#include <hiredis/hiredis.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE 1000
#define RECORD 16

static double sink; /* what was read, so that no compiler leaves the reading out */

static void die(const char *what) {
    fprintf(stderr, "logfloor: %s\n", what);
    exit(1);
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static redisReply *reply(redisContext *c) {
    redisReply *r;
    if (redisGetReply(c, (void **)&r) != REDIS_OK) die(c->errstr);
    if (r->type == REDIS_REPLY_ERROR) die(r->str);
    return r;
}

static void skip(redisContext *c, int count) {
    while (count--) freeReplyObject(reply(c));
}

static void append_record(redisContext *c, const char *key, size_t key_length, long number) {
    char id[32], data[RECORD];
    uint64_t ms = (uint64_t)(now(CLOCK_REALTIME) * 1000);
    float a = number, b = -number;
    memcpy(data, &ms, 8), memcpy(data + 8, &a, 4), memcpy(data + 12, &b, 4);
    const char *argv[] = {"XADD", key, id, "0", data};
    const size_t lengths[] = {4, key_length, snprintf(id, sizeof id, "%ld-0", number), 1, RECORD};
    if (redisAppendCommandArgv(c, 5, argv, lengths) != REDIS_OK) die(c->errstr);
}

static void append(redisContext *c, const char *key, long records, int commit) {
    size_t length = strlen(key);
    char *writer = malloc(length + 8);
    snprintf(writer, length + 8, "%s:writer", key);
    for (long number = 1; number <= records; number += commit) {
        redisAppendCommand(c, "MULTI");
        for (int i = 0; i < commit; i++) append_record(c, key, length, number + i);
        redisAppendCommand(c, "EXEC");
        redisAppendCommand(c, "WATCH %s", writer);
        redisAppendCommand(c, "GET %s", writer);
        skip(c, commit + 1);
        redisReply *done = reply(c);
        if (done->type != REDIS_REPLY_ARRAY || done->elements != (size_t)commit) die("a commit was void");
        freeReplyObject(done);
        skip(c, 2);
    }
    free(writer);
}

static void commit_cursor(redisContext *c, const char *key, const char *id) {
    redisAppendCommand(c, "MULTI");
    redisAppendCommand(c, "XINFO STREAM %s", key);
    redisAppendCommand(c, "XINFO GROUPS %s", key);
    redisAppendCommand(c, "EXEC");
    skip(c, 4);
    freeReplyObject(redisCommand(c, "XGROUP SETID %s reader:0 %s", key, id));
}

static long read_page(redisContext *c, const char *key, char *last) {
    redisAppendCommand(c, "MULTI");
    redisAppendCommand(c, "XRANGE %s (%s + COUNT %d", key, last, PAGE);
    redisAppendCommand(c, "GET %s:writer", key);
    redisAppendCommand(c, "EXEC");
    skip(c, 3);
    redisReply *page = reply(c), *entries = page->element[0];
    long count = entries->elements;
    for (long i = 0; i < count; i++) {
        const redisReply *entry = entries->element[i], *value = entry->element[1]->element[1];
        uint64_t ms;
        float a, b;
        if (value->len != RECORD) die("a record of another length");
        memcpy(&ms, value->str, 8), memcpy(&a, value->str + 8, 4), memcpy(&b, value->str + 12, 4);
        sink += ms + a + b;
        if (i == count - 1) snprintf(last, 32, "%s", entry->element[0]->str);
    }
    freeReplyObject(page);
    return count;
}

int main(int argc, char **argv) {
    if (argc < 5) die("usage: logfloor SOCKET append|read KEY RECORDS [COMMIT]");
    redisContext *c = redisConnectUnix(argv[1]);
    if (!c || c->err) die(c ? c->errstr : "no memory");
    const char *key = argv[3];
    long records = atol(argv[4]), found = 0, count;
    char last[32] = "0-0";
    double start = now(CLOCK_MONOTONIC);
    if (!strcmp(argv[2], "append")) {
        append(c, key, records, atoi(argv[5]));
    } else {
        while (found < records && (count = read_page(c, key, last))) commit_cursor(c, key, last), found += count;
        if (found != records) die("records are missing");
    }
    printf("%.4f\n", (now(CLOCK_MONOTONIC) - start) / records * 1e6);
    redisFree(c);
    return sink == 0.5;
}
