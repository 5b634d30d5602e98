/* What the programs here share: they take orders on stdin, one line each, and answer with one line.

       batch COUNT SIZE NS      durable writes of COUNT entries of SIZE bytes, for NS nanoseconds, after a
                                quarter of that which does not count: a disk that was idle is slow at first
       threads COUNT SIZE NS    COUNT threads, each making its own entry of SIZE bytes durable (limit only)

   The answer is "ENTRIES NS": how many entries became durable, and in how much time. The first line of all is
   "ready VERSION", of the engine that is driven. */

#ifndef SLICES_H
#define SLICES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WRITES_MIN = 3, POOL_BYTES = 1 << 20 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Bytes that no engine can compress away. At least `size` of them, and POOL_BYTES. */
static unsigned char *random_bytes(size_t size) {
    uint64_t x = 88172645463325252u;
    if (size < POOL_BYTES) size = POOL_BYTES;
    unsigned char *bytes = (unsigned char *)malloc(size);
    if (!bytes) die("malloc");
    for (size_t i = 0; i < size; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        bytes[i] = (unsigned char)x;
    }
    return bytes;
}

/* One durable write of `count` entries of `size` bytes. */
typedef void write_fn(long count, long size);

static void run_batch(write_fn *write_one, long count, long size, int64_t ns) {
    int64_t warm = now_ns() + ns / 4;
    while (now_ns() < warm) write_one(count, size);
    int64_t begin = now_ns(), end = begin, writes = 0;
    while (writes < WRITES_MIN || end - begin < ns) {
        write_one(count, size);
        writes++;
        end = now_ns();
    }
    printf("%lld %lld\n", (long long)(writes * count), (long long)(end - begin));
    fflush(stdout);
}

/* Serve orders until stdin ends. `run_threads` may be NULL. */
static void serve(const char *version, write_fn *write_one, void (*run_threads)(long, long, int64_t)) {
    char kind[16];
    long count, size;
    long long ns;
    printf("ready %s\n", version);
    fflush(stdout);
    while (scanf("%15s %ld %ld %lld", kind, &count, &size, &ns) == 4) {
        if (strcmp(kind, "batch") == 0) run_batch(write_one, count, size, ns);
        else if (run_threads && strcmp(kind, "threads") == 0) run_threads(count, size, ns);
        else exit(2);
    }
}

#endif
