/* limit FILE: what the disk gives to the simplest program whose writes are durable.

   One pwrite and one fdatasync a write, into a file that was filled with zeros before, so that no write needs
   a new block. When the end of the file is reached it begins anew.

   With threads: each has an entry to write and waits until it is durable; whoever comes while a write runs
   joins the next one, which one of them makes for all. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "slices.h"

enum { FILE_BYTES = 64 << 20, STEP_BYTES = 4 << 20 };

static int fd;
static off_t offset;
static unsigned char *data;

static void write_durably(const void *bytes, size_t size) {
    if (offset + (off_t)size > FILE_BYTES) offset = 0;
    if (pwrite(fd, bytes, size, offset) != (ssize_t)size) die("pwrite");
    if (fdatasync(fd) != 0) die("fdatasync");
    offset += size;
}

static void write_one(long count, long size) { write_durably(data, (size_t)count * size); }

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned char *filling, *writing;
static size_t filled;
static int64_t group, written, deadline;
static int leads;
static long entry_bytes;

/* Durable on return: led by this thread, or by another. The lock is held on entry and on return. */
static void propose(void) {
    int64_t mine = group;
    memcpy(filling + filled, data, entry_bytes);
    filled += entry_bytes;
    while (written <= mine) {
        if (leads) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        leads = 1;
        size_t size = filled;
        unsigned char *bytes = filling;
        filling = writing, writing = bytes, filled = 0;
        int64_t taken = group++;
        pthread_mutex_unlock(&lock);
        write_durably(bytes, size);
        pthread_mutex_lock(&lock);
        leads = 0;
        written = taken + 1;
        pthread_cond_broadcast(&changed);
    }
}

static void *proposer(void *unused) {
    intptr_t entries = 0;
    (void)unused;
    pthread_mutex_lock(&lock);
    do {
        propose();
        entries++;
    } while (now_ns() < deadline);
    pthread_mutex_unlock(&lock);
    return (void *)entries;
}

static void run_threads(long count, long size, int64_t ns) {
    pthread_t *threads = calloc(count, sizeof *threads);
    filling = malloc(count * size), writing = malloc(count * size);
    if (!threads || !filling || !writing) die("malloc");
    entry_bytes = size, filled = 0, group = written = 0, leads = 0;
    int64_t begin = now_ns(), entries = 0;
    deadline = begin + ns;
    for (long i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, proposer, NULL) != 0) die("pthread_create");
    for (long i = 0; i < count; i++) {
        void *done;
        pthread_join(threads[i], &done);
        entries += (intptr_t)done;
    }
    printf("%lld %lld\n", (long long)entries, (long long)(now_ns() - begin));
    fflush(stdout);
    free(threads), free(filling), free(writing);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    data = random_bytes(FILE_BYTES);
    fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) die(argv[1]);
    unsigned char *zeros = calloc(1, STEP_BYTES);
    for (off_t at = 0; at < FILE_BYTES; at += STEP_BYTES)
        if (pwrite(fd, zeros, STEP_BYTES, at) != STEP_BYTES) die("filling with zeros");
    if (fsync(fd) != 0) die("fsync");
    free(zeros);
    serve("-", write_one, run_threads);
    return 0;
}
