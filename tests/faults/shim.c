// Makes one call that changes a folder fail, or be the last one before the process is killed. Preloaded by the test beside it.
//
// FAULT_DIR: calls on paths that begin so are counted. FAULT_AT: the number of the call, from 1. FAULT_MODE: `fail` or `kill`.
// FAULT_HIT: a file that is made when that call comes. FAULT_FULL_UNTIL: from write FAULT_AT on none
// finds room until there is a file of this name. FAULT_NO_EXCHANGE: renameat2 does not know its flags, as on some systems.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int count;

// The real function of this name.
#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

static int is_below(const char *path) {
    const char *dir = getenv("FAULT_DIR");
    return dir && path && strncmp(path, dir, strlen(dir)) == 0;
}

// What a path is relative to `fd`; -1 and AT_FDCWD: a path of its own.
static int is_at_below(int fd, const char *path) {
    char link[64], target[PATH_MAX];
    if (path && path[0] == '/') return is_below(path);
    if (fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0) return 0;
    target[length] = 0;
    return is_below(target);
}

// 0: go on. 1: fail. 2: do it and be killed.
static int fault(int counted) {
    if (!counted || !getenv("FAULT_MODE") || __sync_add_and_fetch(&count, 1) != atoi(getenv("FAULT_AT"))) return 0;
    int hit = syscall(SYS_openat, AT_FDCWD, getenv("FAULT_HIT"), O_CREAT | O_WRONLY, 0644);
    if (hit >= 0) syscall(SYS_close, hit);
    return strcmp(getenv("FAULT_MODE"), "kill") == 0 ? 2 : 1;
}

#define WITH_FAULT(counted, error, call)        \
    do {                                        \
        int what = fault(counted);              \
        if (what == 1) {                        \
            errno = error;                      \
            return -1;                          \
        }                                       \
        long result = (call);                   \
        if (what == 2) raise(SIGKILL);          \
        return result;                          \
    } while (0)

int mkdir(const char *path, mode_t mode) {
    WITH_FAULT(is_below(path), ENOSPC, REAL("mkdir", int (*)(const char *, mode_t))(path, mode));
}

int rename(const char *from, const char *to) {
    WITH_FAULT(is_below(to), EIO, REAL("rename", int (*)(const char *, const char *))(from, to));
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    WITH_FAULT(is_at_below(to_fd, to), EIO,
               REAL("renameat", int (*)(int, const char *, int, const char *))(from_fd, from, to_fd, to));
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    if (flags && getenv("FAULT_NO_EXCHANGE")) {
        errno = EINVAL;
        return -1;
    }
    WITH_FAULT(is_at_below(to_fd, to), EIO, syscall(SYS_renameat2, from_fd, from, to_fd, to, flags));
}

ssize_t write(int fd, const void *bytes, size_t size) {
    const char *until = getenv("FAULT_FULL_UNTIL");
    if (until && fd > 2 && is_at_below(fd, NULL)) {
        int full = __sync_add_and_fetch(&count, 1) >= atoi(getenv("FAULT_AT")) && access(until, F_OK) != 0;
        if (!full) return syscall(SYS_write, fd, bytes, size);
        errno = ENOSPC;
        return -1;
    }
    WITH_FAULT(fd > 2 && is_at_below(fd, NULL), ENOSPC, syscall(SYS_write, fd, bytes, size));
}

int fsync(int fd) { WITH_FAULT(is_at_below(fd, NULL), EIO, REAL("fsync", int (*)(int))(fd)); }

int fdatasync(int fd) { WITH_FAULT(is_at_below(fd, NULL), EIO, REAL("fdatasync", int (*)(int))(fd)); }

int unlink(const char *path) { WITH_FAULT(is_below(path), EIO, REAL("unlink", int (*)(const char *))(path)); }

int rmdir(const char *path) { WITH_FAULT(is_below(path), EIO, REAL("rmdir", int (*)(const char *))(path)); }

int unlinkat(int fd, const char *path, int flags) {
    WITH_FAULT(is_at_below(fd, path), EIO, REAL("unlinkat", int (*)(int, const char *, int))(fd, path, flags));
}

// Only calls that create a file are counted.
static int opened(int fd, const char *path, int flags, mode_t mode) {
    WITH_FAULT((flags & O_CREAT) && is_at_below(fd, path), ENOSPC, syscall(SYS_openat, fd, path, flags, mode));
}

#define MODE_OF(flags, last)               \
    mode_t mode = 0;                       \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list list;                      \
        va_start(list, last);              \
        mode = va_arg(list, mode_t);       \
        va_end(list);                      \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int fd, const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return opened(fd, path, flags, mode);
}

int openat64(int fd, const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return opened(fd, path, flags | O_LARGEFILE, mode);
}
