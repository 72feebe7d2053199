/* Stands before the C library (LD_PRELOAD) and ends the process, signals it or fails, at the n-th
 * call that changes something on the disk; or fails one allocation in n; or sets the clock, years
 * back and forth, at every look at it. Armed by `shim_arm`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { OFF, KILL_BEFORE, KILL_AFTER, DISK_FULL, NO_MEMORY, INTERRUPT, TERMINATE, CLOCKS };

static volatile int mode = OFF;
static volatile long at = 0, calls = 0;
static volatile unsigned long seed = 1;

void shim_arm(int new_mode, long new_at) {
  at = new_at;
  calls = 0;
  seed = (unsigned long)new_at * 2654435761u + 1;
  mode = new_mode;
}

long shim_calls(void) { return calls; }

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* Whether this call is the one to fail. */
static int before(void) {
  if (mode == OFF || mode == NO_MEMORY || mode == CLOCKS) return 0;
  long number = ++calls;
  if (mode == KILL_BEFORE && number == at) die();
  if (mode == INTERRUPT && number == at) kill(getpid(), SIGINT);
  if (mode == TERMINATE && number == at) kill(getpid(), SIGTERM);
  return mode == DISK_FULL && number >= at;
}

static void after(void) {
  if (mode == KILL_AFTER && calls == at) die();
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define CHANGES(type, name, parameters, arguments) \
  type name parameters { \
    REAL(name); \
    if (before()) { errno = ENOSPC; return -1; } \
    type result = real arguments; \
    after(); \
    return result; \
  }

int rename(const char *, const char *);
int renameat2(int, const char *, int, const char *, unsigned);
int mkdir(const char *, mode_t);

CHANGES(ssize_t, write, (int f, const void *b, size_t n), (f, b, n))
CHANGES(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o))
CHANGES(int, fsync, (int f), (f))
CHANGES(int, fdatasync, (int f), (f))
CHANGES(int, ftruncate64, (int f, off64_t n), (f, n))
CHANGES(int, rename, (const char *a, const char *b), (a, b))
CHANGES(int, renameat2, (int c, const char *a, int d, const char *b, unsigned g), (c, a, d, b, g))
CHANGES(int, mkdir, (const char *p, mode_t m), (p, m))

/* What only takes away goes on when the disk is full. */
#define TAKES_AWAY(name, parameters, arguments) \
  int name parameters { \
    REAL(name); \
    before(); \
    int result = real arguments; \
    after(); \
    return result; \
  }

TAKES_AWAY(unlink, (const char *p), (p))
TAKES_AWAY(unlinkat, (int f, const char *p, int g), (f, p, g))
TAKES_AWAY(rmdir, (const char *p), (p))

int open64(const char *path, int flags, ...) {
  REAL(open64);
  va_list rest;
  va_start(rest, flags);
  mode_t rights = va_arg(rest, mode_t);
  va_end(rest);
  if (!(flags & O_CREAT)) return real(path, flags, rights);
  if (before()) { errno = ENOSPC; return -1; }
  int result = real(path, flags, rights);
  after();
  return result;
}

/* By chance of a fixed seed, below `most`. */
static unsigned long chance(unsigned long most) {
  seed = seed * 6364136223846793005ul + 1442695040888963407ul;
  return (seed >> 33) % most;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int result = real(clock, now);
  if (mode != CLOCKS || clock != CLOCK_REALTIME) return result;
  const time_t ten_years = 10l * 365 * 86400;
  calls++;
  now->tv_sec += ten_years * ((long)chance(3) - 1);
  return result;
}

/* One allocation in `at`; small ones are left to live. */
static int starve(size_t size) {
  if (mode != NO_MEMORY || size < 4096) return 0;
  return chance((unsigned long)at) == 0;
}

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

void *malloc(size_t size) {
  if (starve(size)) { errno = ENOMEM; return NULL; }
  return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  if (starve(count * size)) { errno = ENOMEM; return NULL; }
  return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
  if (starve(size)) { errno = ENOMEM; return NULL; }
  return __libc_realloc(old, size);
}
