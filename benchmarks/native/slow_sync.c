/* slow_sync.so, for LD_PRELOAD: every sync takes RAFTSTORE_SYNC_US microseconds more, spent asleep.

   A disk simulated for all programs alike: whoever syncs waits, and leaves the processor to others. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

static struct timespec delay;

__attribute__((constructor)) static void read_delay(void) {
    const char *given = getenv("RAFTSTORE_SYNC_US");
    long us = given ? atol(given) : 0;
    delay.tv_sec = us / 1000000;
    delay.tv_nsec = us % 1000000 * 1000;
}

static int slowly(const char *name, int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = sync(fd), error = errno;
    struct timespec left = delay;
    prctl(PR_SET_TIMERSLACK, 1);
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) continue;
    errno = error;
    return result;
}

int fdatasync(int fd) { return slowly("fdatasync", fd); }

int fsync(int fd) { return slowly("fsync", fd); }
