// A library to preload that makes one call of the file system fail: the N-th of a kind on a path below a folder.
//
// FAULTS names what is wanted, as KIND:N:TIMES:ERRNO:FOLDER. KIND is one of those below, N counts from 1, TIMES how
// often it fails from there on (0: always), ERRNO the number, 0 for a read that returns half of what there is (and, of
// calls that are no reads, nothing), -9 for a process that is killed before the call. Without FAULTS, or with an N of 0, calls are only counted; faults_counts prints
// how many there were of each kind, faults_armed reads FAULTS again, in a child that was forked.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN, LIST, READ, WRITE, RENAME, LINK, SYNC, REMOVE, KINDS };
static const char *const names[KINDS] = {"open", "list", "read", "write", "rename", "link", "sync", "remove"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counts[KINDS];
static int kind = -1, number;
static long first, times;
static char folder[4096];
static size_t length;

__attribute__((constructor, visibility("default"))) void faults_armed(void) {
  memset(counts, 0, sizeof counts);
  kind = -1, length = 0;
  const char *const wanted = getenv("FAULTS");
  char name[16];
  if (!wanted || sscanf(wanted, "%15[^:]:%ld:%ld:%d:%4095s", name, &first, &times, &number, folder) != 5) return;
  length = strlen(folder);
  for (int i = 0; i < KINDS; ++i)
    if (!strcmp(name, names[i])) kind = i;
}

__attribute__((visibility("default"))) void faults_counts(int descriptor) {
  for (int i = 0; i < KINDS; ++i) dprintf(descriptor, "%s %ld\n", names[i], counts[i]);
}

static int below(const char *path) {
  char full[8192];
  if (!length || !path) return 0;
  if (path[0] != '/') {
    if (!getcwd(full, 4096)) return 0;
    strncat(full, "/", 2);
    strncat(full, path, 4000);
    path = full;
  }
  return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int below_descriptor(int descriptor) {
  char link[64], path[4096];
  if (!length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t found = readlink(link, path, sizeof path - 1);
  if (found < 0) return 0;
  path[found] = 0;
  return below(path);
}

// Whether this call, on a path below the folder, is one that must fail.
static int fails(int what) {
  pthread_mutex_lock(&lock);
  const long count = ++counts[what];
  const int so = what == kind && first && count >= first && (!times || count < first + times);
  pthread_mutex_unlock(&lock);
  if (so && number == -SIGKILL) kill(getpid(), SIGKILL);
  return so;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define FAIL(what, where, failed)                      \
  if (where && fails(what) && number) {                \
    errno = number;                                    \
    return failed;                                     \
  }

#define OPENS(name, declared, given)                                              \
  int name declared {                                                             \
    REAL(name);                                                                   \
    va_list rest;                                                                 \
    va_start(rest, flags);                                                        \
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                                 \
    FAIL(OPEN, below(path), -1)                                                   \
    return real given;                                                            \
  }
OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

DIR *opendir(const char *path) {
  REAL(opendir);
  FAIL(LIST, below(path), NULL)
  return real(path);
}

#define FOPENS(name)                             \
  FILE *name(const char *path, const char *mode) { \
    REAL(name);                                  \
    FAIL(OPEN, below(path), NULL)                \
    return real(path, mode);                     \
  }
FOPENS(fopen)
FOPENS(fopen64)

// A short read is no error to the caller: it gets half of the bytes.
static size_t shortened(int descriptor, size_t size, int *failed) {
  *failed = 0;
  if (!below_descriptor(descriptor) || !fails(READ)) return size;
  *failed = number != 0;
  return size > 1 ? size / 2 : size;
}
#define READS(name, declared, given)               \
  ssize_t name declared {                           \
    REAL(name);                                    \
    int failed;                                    \
    size = shortened(descriptor, size, &failed);   \
    if (failed) return errno = number, -1;         \
    return real given;                             \
  }
READS(read, (int descriptor, void *data, size_t size), (descriptor, data, size))
READS(pread, (int descriptor, void *data, size_t size, off_t offset), (descriptor, data, size, offset))
READS(pread64, (int descriptor, void *data, size_t size, off64_t offset), (descriptor, data, size, offset))

ssize_t write(int descriptor, const void *data, size_t size) {
  REAL(write);
  FAIL(WRITE, below_descriptor(descriptor), -1)
  return real(descriptor, data, size);
}
int rename(const char *from, const char *to) {
  REAL(rename);
  FAIL(RENAME, below(to), -1)
  return real(from, to);
}
int renameat(int at, const char *from, int to_at, const char *to) {
  REAL(renameat);
  FAIL(RENAME, below(to), -1)
  return real(at, from, to_at, to);
}
int link(const char *from, const char *to) {
  REAL(link);
  FAIL(LINK, below(to), -1)
  return real(from, to);
}
int fsync(int descriptor) {
  REAL(fsync);
  FAIL(SYNC, below_descriptor(descriptor), -1)
  return real(descriptor);
}
int fdatasync(int descriptor) {
  REAL(fdatasync);
  FAIL(SYNC, below_descriptor(descriptor), -1)
  return real(descriptor);
}
int unlink(const char *path) {
  REAL(unlink);
  FAIL(REMOVE, below(path), -1)
  return real(path);
}
int unlinkat(int at, const char *path, int flags) {
  REAL(unlinkat);
  FAIL(REMOVE, at == AT_FDCWD ? below(path) : below_descriptor(at), -1)
  return real(at, path, flags);
}
int rmdir(const char *path) {
  REAL(rmdir);
  FAIL(REMOVE, below(path), -1)
  return real(path);
}
