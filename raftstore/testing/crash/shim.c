/* Stands between a process and its C library (LD_PRELOAD), for the files below one directory.
 *
 * Records every call that changes a file or a name, with its data, in the order in which they happened;
 * makes the Nth such call fail, write too little, or kill the process. `record.py` arms it and reads the
 * records; the layouts of `struct record` and of the FIRED event are known there and in `events.py`.
 * Until `crash_arm` is called, and in every other process, all calls pass through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, ALLOCATE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, LINK, EVENT, UNSUPPORTED };
enum { CREATED = 1, EMPTIED = 2, DIRECTORY = 4, SYNCED = 8, DATA_ONLY = 16 };
enum { ACT_FAIL = 1, ACT_SHORT, ACT_KILL, ACT_KILL_HALF, ACT_STOP };
enum { FIRED = 11, FDS = 4096, PAUSE_MAX_US = 10000, BLOCK = 4096 };

struct record {
    uint8_t op, flags;
    uint16_t path1_bytes, path2_bytes, unused;
    int32_t error;
    uint32_t data_bytes;
    uint64_t inode, offset, length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* one recorded call at a time: a total order */
static char root[PATH_MAX];
static size_t root_bytes;
static pid_t owner;
static int trace_fd = -1, event_fd = -1;
static uint64_t inode_of[FDS]; /* of the descriptors of files below the root, else 0 */
static struct { uint32_t kinds; uint64_t nth; int action, error, sticky; } fault;
static uint64_t calls;

#define REAL(result, name, ...)                                        \
    static result (*real_##name)(__VA_ARGS__);                         \
    if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

static ssize_t raw_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    return real_write(fd, data, size);
}

static int armed(void) { return root_bytes && getpid() == owner; }

static uint64_t tracked(int fd) { return armed() && fd >= 0 && fd < FDS ? inode_of[fd] : 0; }

static void put(int op, int flags, int error, uint64_t inode, uint64_t offset, uint64_t length,
                const char *path1, const char *path2, const void *data, size_t data_bytes) {
    if (trace_fd < 0) return;
    struct record head = {op, flags, path1 ? strlen(path1) : 0, path2 ? strlen(path2) : 0, 0, error,
                          data_bytes, inode, offset, length};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)path1, head.path1_bytes},
                             {(void *)path2, head.path2_bytes}, {(void *)data, data_bytes}};
    REAL(ssize_t, writev, int, const struct iovec *, int);
    size_t size = sizeof head + head.path1_bytes + head.path2_bytes + data_bytes;
    if (real_writev(trace_fd, parts, 4) != (ssize_t)size) abort();
}

/* Counts the call; 0: let it pass, else the errno to fail with. May not return. ACT_SHORT halves `size`. */
static int faulty(uint32_t kind, size_t *size) {
    if (!(fault.kinds & kind)) return 0;
    uint64_t number = ++calls;
    if (number != fault.nth && !(fault.sticky && number > fault.nth)) return 0;
    int resizes = fault.action == ACT_SHORT || fault.action == ACT_KILL_HALF;
    if (resizes && !size) return 0;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = now.tv_sec * 1000000000ull + now.tv_nsec;
    unsigned char event[24] = {FIRED};
    uint64_t error = fault.action == ACT_FAIL ? fault.error : 0;
    memcpy(event + 4, &kind, 4);
    memcpy(event + 8, &error, 8);
    memcpy(event + 16, &now_ns, 8);
    if (number == fault.nth || fault.action == ACT_FAIL) raw_write(event_fd, event, sizeof event);
    if (fault.action == ACT_KILL) kill(owner, SIGKILL), pause();
    if (fault.action == ACT_STOP) kill(owner, SIGSTOP), pause();
    if (fault.action == ACT_FAIL) return fault.error;
    if (*size > 1) *size /= 2;
    return 0;
}

static void killed_half(size_t before, size_t after) {
    if (before != after && fault.action == ACT_KILL_HALF) kill(owner, SIGKILL), pause();
}

/* The path below the root, or NULL. */
static const char *below(int dirfd, const char *path, char *buffer) {
    if (!armed() || !path) return NULL;
    if (path[0] != '/') {
        char link[64];
        if (dirfd == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t size = readlink(link, buffer, PATH_MAX - 1);
        if (size < 0 || size + strlen(path) + 2 > PATH_MAX) return NULL;
        buffer[size] = '/';
        strcpy(buffer + size + 1, path);
    } else {
        snprintf(buffer, PATH_MAX, "%s", path);
    }
    if (strncmp(buffer, root, root_bytes) || (buffer[root_bytes] && buffer[root_bytes] != '/')) return NULL;
    return buffer[root_bytes] ? buffer + root_bytes + 1 : buffer + root_bytes;
}

static void forked_prepare(void) { pthread_mutex_lock(&lock); }
static void forked_done(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void loaded(void) {
    pthread_atfork(forked_prepare, forked_done, forked_done);
}

/* Begin with this process and the files below `path`. `kinds` is a mask, `nth` counts calls of these kinds. */
void crash_arm(const char *path, int trace, int events, uint32_t kinds, uint64_t nth, int action, int error,
               int sticky) {
    trace_fd = trace, event_fd = events, owner = getpid(), calls = 0;
    fault.kinds = kinds, fault.nth = nth, fault.action = action, fault.error = error, fault.sticky = sticky;
    snprintf(root, sizeof root, "%s", path);
    root_bytes = strlen(root);
}

/* Fail if the call is to fail; `leave` unlocks on every way out. */
#define ENTER(kind, size, failure)                                                        \
    pthread_mutex_lock(&lock);                                                            \
    int injected = faulty(kind, size);                                                    \
    if (injected) { LEAVE(); errno = injected; return failure; }
#define LEAVE() pthread_mutex_unlock(&lock)
#define ERROR(result) ((result) < 0 ? errno : 0)
#define KEEP_ERRNO(statement) do { int kept = errno; statement; errno = kept; } while (0)

enum { K_WRITE = 1, K_SYNC = 2, K_OPEN = 4, K_RENAME = 8, K_UNLINK = 16, K_ALLOCATE = 32, K_TRUNCATE = 64,
       K_MKDIR = 128 };

/* --- opening ------------------------------------------------------------------------------------------ */

static int open_below(int dirfd, const char *path, const char *name, int flags, mode_t mode) {
    REAL(int, openat, int, const char *, int, ...);
    ENTER(K_OPEN, NULL, -1);
    struct stat status;
    int existed = fstatat(dirfd, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
    int fd = real_openat(dirfd, path, flags, mode);
    if (fd >= 0) {
        fstat(fd, &status);
        int what = (existed ? 0 : CREATED) | (flags & O_TRUNC && (flags & O_ACCMODE) ? EMPTIED : 0) |
                   (S_ISDIR(status.st_mode) ? DIRECTORY : 0);
        if (fd >= FDS || flags & O_TMPFILE & ~O_DIRECTORY) put(UNSUPPORTED, 0, 0, 0, 0, 0, name, NULL, NULL, 0);
        else inode_of[fd] = status.st_ino;
        put(OPEN, what, 0, status.st_ino, 0, 0, name, NULL, NULL, 0);
    }
    KEEP_ERRNO(LEAVE());
    return fd;
}

static int open_any(int dirfd, const char *path, int flags, mode_t mode) {
    char buffer[PATH_MAX];
    const char *name = below(dirfd, path, buffer);
    if (name) return open_below(dirfd, path, name, flags, mode);
    REAL(int, openat, int, const char *, int, ...);
    return real_openat(dirfd, path, flags, mode);
}

#define MODE(last)                                                                        \
    mode_t mode = 0;                                                                      \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                  \
        va_list arguments;                                                                \
        va_start(arguments, last);                                                        \
        mode = va_arg(arguments, mode_t);                                                 \
        va_end(arguments);                                                                \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_any(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_any(at, path, flags, mode); }
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __openat_2(int at, const char *path, int flags) { return open_any(at, path, flags, 0); }
int __openat64_2(int at, const char *path, int flags) { return open_any(at, path, flags, 0); }
int creat(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    REAL(int, close, int);
    if (tracked(fd)) inode_of[fd] = 0;
    return real_close(fd);
}

/* --- data --------------------------------------------------------------------------------------------- */

static ssize_t write_tracked(int fd, uint64_t inode, const void *data, size_t size, off_t offset, int moves) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    size_t wanted = size;
    ENTER(K_WRITE, &size, -1);
    if (moves) {
        struct stat status;
        fstat(fd, &status);
        offset = fcntl(fd, F_GETFL) & O_APPEND ? status.st_size : lseek(fd, 0, SEEK_CUR);
    }
    int synced = fcntl(fd, F_GETFL) & O_DSYNC ? SYNCED : 0;
    ssize_t done = moves ? raw_write(fd, data, size) : real_pwrite64(fd, data, size, offset);
    KEEP_ERRNO(put(WRITE, synced, ERROR(done), inode, offset, 0, NULL, NULL, data, done > 0 ? done : 0));
    KEEP_ERRNO(killed_half(wanted, size); LEAVE());
    return done;
}

ssize_t write(int fd, const void *data, size_t size) {
    if (armed() && fd == event_fd) {
        pthread_mutex_lock(&lock);
        ssize_t done = raw_write(fd, data, size);
        put(EVENT, 0, 0, 0, 0, 0, NULL, NULL, data, size);
        LEAVE();
        return done;
    }
    uint64_t inode = tracked(fd);
    return inode ? write_tracked(fd, inode, data, size, 0, 1) : raw_write(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    uint64_t inode = tracked(fd);
    return inode ? write_tracked(fd, inode, data, size, offset, 0) : real_pwrite64(fd, data, size, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

/* A vector of buffers is written as one call with all of them. */
static ssize_t write_vector(int fd, uint64_t inode, const struct iovec *parts, int count, off_t offset, int moves) {
    size_t size = 0, at = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    char *joined = malloc(size ? size : 1);
    for (int i = 0; i < count; at += parts[i++].iov_len) memcpy(joined + at, parts[i].iov_base, parts[i].iov_len);
    ssize_t done = write_tracked(fd, inode, joined, size, offset, moves);
    KEEP_ERRNO(free(joined));
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    uint64_t inode = tracked(fd);
    return inode ? write_vector(fd, inode, parts, count, 0, 1) : real_writev(fd, parts, count);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    REAL(ssize_t, pwritev64, int, const struct iovec *, int, off_t);
    uint64_t inode = tracked(fd);
    return inode ? write_vector(fd, inode, parts, count, offset, 0) : real_pwritev64(fd, parts, count, offset);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(fd, parts, count, offset);
}

int ftruncate64(int fd, off_t length) {
    REAL(int, ftruncate64, int, off_t);
    uint64_t inode = tracked(fd);
    if (!inode) return real_ftruncate64(fd, length);
    ENTER(K_TRUNCATE, NULL, -1);
    int result = real_ftruncate64(fd, length);
    KEEP_ERRNO(put(TRUNCATE, 0, ERROR(result), inode, 0, length, NULL, NULL, NULL, 0); LEAVE());
    return result;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* `mode` is that of fallocate: only "keep the size" and none are understood. */
int fallocate64(int fd, int mode, off_t offset, off_t length) {
    REAL(int, fallocate64, int, int, off_t, off_t);
    uint64_t inode = tracked(fd);
    if (!inode) return real_fallocate64(fd, mode, offset, length);
    ENTER(K_ALLOCATE, NULL, -1);
    int result = real_fallocate64(fd, mode, offset, length), error = ERROR(result);
    if (mode & ~FALLOC_FL_KEEP_SIZE) put(UNSUPPORTED, 0, 0, inode, 0, 0, "fallocate", NULL, NULL, 0);
    if (!mode) put(ALLOCATE, 0, error, inode, offset, length, NULL, NULL, NULL, 0);
    LEAVE();
    errno = error;
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

/* As the C library does it where the file system cannot: holes in the file are written, and what is beyond it. */
static int allocate_by_writing(int fd, off_t offset, off_t length) {
    static const char zeros[1 << 16];
    struct stat status;
    if (fstat(fd, &status)) return errno;
    off_t stop = offset + length, at = offset, inside = status.st_size < stop ? status.st_size : stop;
    for (; at < inside; at += BLOCK - at % BLOCK) {
        char byte;
        if (pread(fd, &byte, 1, at) < 0) return errno;
        if (!byte && pwrite64(fd, zeros, 1, at) < 0) return errno;
    }
    for (at = inside > offset ? inside : offset; at < stop;) {
        size_t size = stop - at < (off_t)sizeof zeros ? (size_t)(stop - at) : sizeof zeros;
        ssize_t done = pwrite64(fd, zeros, size, at);
        if (done < 0) return errno;
        at += done;
    }
    return 0;
}

int posix_fallocate64(int fd, off_t offset, off_t length) {
    REAL(int, posix_fallocate64, int, off_t, off_t);
    if (!tracked(fd)) return real_posix_fallocate64(fd, offset, length);
    int kept = errno, error = fallocate64(fd, 0, offset, length) ? errno : 0;
    if (error == EOPNOTSUPP) error = allocate_by_writing(fd, offset, length);
    errno = kept;
    return error;
}
int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

static int sync_tracked(int fd, uint64_t inode, int (*real)(int), int data_only) {
    pthread_mutex_lock(&lock);
    int error = faulty(K_SYNC, NULL), result = error ? -1 : real(fd);
    if (result && !error) error = errno;
    put(SYNC, data_only ? DATA_ONLY : 0, error, inode, 0, 0, NULL, NULL, NULL, 0);
    LEAVE();
    if (error) errno = error;
    return result;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    uint64_t inode = tracked(fd);
    return inode ? sync_tracked(fd, inode, real_fsync, 0) : real_fsync(fd);
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    uint64_t inode = tracked(fd);
    return inode ? sync_tracked(fd, inode, real_fdatasync, 1) : real_fdatasync(fd);
}

/* RocksDB pauses a second when it could not write in the background, and its closing waits for that. */
int usleep(useconds_t microseconds) {
    REAL(int, usleep, useconds_t);
    return real_usleep(microseconds > PAUSE_MAX_US ? PAUSE_MAX_US : microseconds);
}

/* --- names -------------------------------------------------------------------------------------------- */

#define NAMED(kind, op, at, path, call, plain)                                            \
    char buffer[PATH_MAX];                                                                \
    const char *name = below(at, path, buffer);                                           \
    if (!name) return plain;                                                              \
    ENTER(kind, NULL, -1);                                                                \
    int result = call;                                                                    \
    KEEP_ERRNO(put(op, 0, ERROR(result), 0, 0, 0, name, NULL, NULL, 0); LEAVE());         \
    return result

int unlinkat(int at, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    NAMED(K_UNLINK, flags & AT_REMOVEDIR ? RMDIR : UNLINK, at, path, real_unlinkat(at, path, flags),
          real_unlinkat(at, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    char buffer[PATH_MAX];
    const char *name = below(at, path, buffer);
    if (!name) return real_mkdirat(at, path, mode);
    ENTER(K_MKDIR, NULL, -1);
    struct stat status = {0};
    int result = real_mkdirat(at, path, mode), error = ERROR(result);
    if (!result) fstatat(at, path, &status, 0);
    put(MKDIR, 0, error, status.st_ino, 0, 0, name, NULL, NULL, 0);
    LEAVE();
    errno = error;
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

static int two_names(int op, int at1, const char *path1, int at2, const char *path2, uint32_t flags) {
    REAL(int, renameat2, int, const char *, int, const char *, uint32_t);
    REAL(int, linkat, int, const char *, int, const char *, int);
    char buffer1[PATH_MAX], buffer2[PATH_MAX];
    const char *name1 = below(at1, path1, buffer1), *name2 = below(at2, path2, buffer2);
    int links = op == LINK;
    if (!name1 && !name2)
        return links ? real_linkat(at1, path1, at2, path2, flags) : real_renameat2(at1, path1, at2, path2, flags);
    if (!name2 && links) return real_linkat(at1, path1, at2, path2, flags); /* to a place that is not ours */
    ENTER(K_RENAME, NULL, -1);
    int result = links ? real_linkat(at1, path1, at2, path2, flags) : real_renameat2(at1, path1, at2, path2, flags);
    int error = ERROR(result);
    if (!name1 || !name2 || (!links && flags & ~1u)) put(UNSUPPORTED, 0, 0, 0, 0, 0, "rename", NULL, NULL, 0);
    put(op, 0, error, 0, 0, 0, name1, name2, NULL, 0);
    LEAVE();
    errno = error;
    return result;
}
int rename(const char *old, const char *new) { return two_names(RENAME, AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int at1, const char *old, int at2, const char *new) { return two_names(RENAME, at1, old, at2, new, 0); }
int renameat2(int at1, const char *old, int at2, const char *new, unsigned flags) {
    return two_names(RENAME, at1, old, at2, new, flags);
}
int link(const char *old, const char *new) { return two_names(LINK, AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int at1, const char *old, int at2, const char *new, int flags) {
    return two_names(LINK, at1, old, at2, new, flags);
}

/* --- what is not understood ---------------------------------------------------------------------------- */

ssize_t copy_file_range(int from, off_t *at, int to, off_t *offset, size_t size, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned);
    if (tracked(to)) put(UNSUPPORTED, 0, 0, 0, 0, 0, "copy_file_range", NULL, NULL, 0);
    return real_copy_file_range(from, at, to, offset, size, flags);
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t size) {
    REAL(ssize_t, sendfile64, int, int, off_t *, size_t);
    if (tracked(to)) put(UNSUPPORTED, 0, 0, 0, 0, 0, "sendfile", NULL, NULL, 0);
    return real_sendfile64(to, from, offset, size);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) { return sendfile64(to, from, offset, size); }
