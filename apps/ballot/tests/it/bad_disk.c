/* A bad disk, for one process: preloaded by bad_disk.rs, before the C library.
 *
 *   BAD_DISK=DIR         the folder that is on it
 *   BAD_DISK_BYTES=N     writes that would make the files in DIR larger than N bytes together fail with ENOSPC; writing over
 *                        what is there works, as on a disk that is full
 *   BAD_DISK_ERROR=FILE  while FILE exists, syncs of files in DIR fail with EIO
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static _Thread_local long long total;

static int add(const char *path, const struct stat *about, int kind, struct FTW *where) {
    (void)path, (void)where;
    if (kind == FTW_F) total += about->st_size;
    return 0;
}

static int is_on_it(int fd) {
    const char *dir = getenv("BAD_DISK");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path);
    return dir && n > 0 && (size_t)n >= strlen(dir) && memcmp(path, dir, strlen(dir)) == 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    const char *limit = getenv("BAD_DISK_BYTES");
    struct stat about;
    if (limit && is_on_it(fd) && fstat(fd, &about) == 0 && at + (long long)count > about.st_size) {
        total = 0;
        nftw(getenv("BAD_DISK"), add, 8, FTW_PHYS);
        if (total + at + (long long)count - about.st_size > atoll(limit)) {
            errno = ENOSPC;
            return -1;
        }
    }
    return real(fd, bytes, count, at);
}

static int is_broken(int fd) {
    const char *sign = getenv("BAD_DISK_ERROR");
    return sign && access(sign, F_OK) == 0 && is_on_it(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    if (is_broken(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    if (is_broken(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}
