/*
 * The floor of the array rows: a careful C program on libhiredis that hands large values from process to process.
 *
 *   arrayfloor unix:PATH|tcp:PORT BYTES COUNT        prints microseconds from before SET to the reader's acknowledgement
 *
 * The writer SETs BYTES bytes and says so through a pipe; the reader, a process of its own, GETs them, adds up every
 * 4096th byte and says the sum through another pipe; the writer checks it. So does each contender in arrays.py.
 */
#include <hiredis/hiredis.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define VALUES 8
#define KEY "array:floor"

static void die(const char *what) {
    fprintf(stderr, "arrayfloor: %s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static redisContext *join(const char *address) {
    redisContext *c = !strncmp(address, "unix:", 5) ? redisConnectUnix(address + 5) : redisConnect("127.0.0.1", atoi(address + 4));
    if (!c || c->err) die(c ? c->errstr : "no memory");
    return c;
}

static uint64_t touched(const char *data, size_t size) {
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i += PAGE) sum += (uint8_t)data[i];
    return sum;
}

static void serve(redisContext *c, int in, int out, size_t size) {
    char turn;
    while (read(in, &turn, 1) == 1) {
        redisReply *r = redisCommand(c, "GET " KEY);
        if (!r || r->type != REDIS_REPLY_STRING || r->len != size) die("no value");
        uint64_t sum = touched(r->str, r->len);
        freeReplyObject(r);
        if (write(out, &sum, sizeof sum) != sizeof sum) die("nobody hears");
    }
    exit(0);
}

static void hand_over(redisContext *c, int out, int in, const char *data, size_t size) {
    const char *argv[] = {"SET", KEY, data};
    const size_t lengths[] = {3, strlen(KEY), size};
    redisReply *r = redisCommandArgv(c, 3, argv, lengths);
    if (!r || r->type != REDIS_REPLY_STATUS) die("SET failed");
    freeReplyObject(r);
    uint64_t sum;
    if (write(out, "", 1) != 1 || read(in, &sum, sizeof sum) != sizeof sum) die("the reader is gone");
    if (sum != touched(data, size)) die("the reader has other bytes");
}

int main(int argc, char **argv) {
    if (argc != 4) die("usage: arrayfloor unix:PATH|tcp:PORT BYTES COUNT");
    size_t size = atol(argv[2]);
    int count = atoi(argv[3]), there[2], back[2];
    char *values[VALUES];
    for (int v = 0; v < VALUES; v++) {
        if (!(values[v] = malloc(size))) die("no memory");
        memset(values[v], v + 1, size);
    }
    if (pipe(there) || pipe(back)) die("no pipe");
    if (!fork()) {
        close(there[1]);
        serve(join(argv[1]), there[0], back[1], size);
    }
    close(there[0]), close(back[1]);
    redisContext *c = join(argv[1]);
    for (int i = 0; i < VALUES; i++) hand_over(c, there[1], back[0], values[i], size);
    double start = now();
    for (int i = 0; i < count; i++) hand_over(c, there[1], back[0], values[i % VALUES], size);
    printf("%.2f\n", (now() - start) / count * 1e6);
    close(there[1]);
    wait(NULL);
    redisFree(c);
}
