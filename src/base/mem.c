#include "base/mem.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *checked(void *p)
{
    if (p == NULL) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return p;
}

void mem_share_heap(void)
{
#ifdef M_ARENA_MAX
    (void)mallopt(M_ARENA_MAX, 1); /* where the C library knows it */
    (void)mallopt(M_MMAP_THRESHOLD, 32 * 1024);
#endif
}

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
/* Of this process, without what it shares with files; 0 = not known. */
static size_t resident_anonymous(void)
{
    char text[128] = "", *at = text;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC); /* "size resident shared ...", in pages */
    ssize_t length = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0)
        (void)close(fd);
    if (length <= 0)
        return 0;
    (void)strtoull(at, &at, 10);
    unsigned long long resident = strtoull(at, &at, 10), shared = strtoull(at, &at, 10);
    return resident > shared ? (size_t)(resident - shared) * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

static size_t idle_bytes(void)
{
    struct mallinfo2 now = mallinfo2();
    size_t resident = resident_anonymous(), used = now.uordblks + now.hblkhd;
    return resident > used ? resident - used : 0;
}

bool mem_settle(struct mem_use *use, size_t least)
{
    size_t idle = idle_bytes();
    bool grown = use->looked && idle > use->least_idle && idle - use->least_idle >= least;
    if (grown)
        (void)malloc_trim(0);
    if (grown || !use->looked || idle < use->least_idle)
        use->least_idle = grown ? idle_bytes() : idle;
    use->looked = true;
    return grown;
}
#else
bool mem_settle(struct mem_use *use, size_t least)
{
    (void)use;
    (void)least;
    return false;
}
#endif

void *mem_alloc(size_t size)
{
    return checked(malloc(size > 0 ? size : 1));
}

void *mem_zalloc(size_t size)
{
    return checked(calloc(1, size > 0 ? size : 1));
}

void *mem_array(size_t count, size_t size)
{
    return checked(calloc(count > 0 ? count : 1, size > 0 ? size : 1));
}

void *mem_resize(void *p, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return checked(NULL);
    return checked(realloc(p, bytes > 0 ? bytes : 1));
}

char *mem_strdup(const char *s)
{
    return s != NULL ? checked(strdup(s)) : NULL;
}

char *mem_strndup(const char *s, size_t n)
{
    const char *end = memchr(s, '\0', n);
    size_t length = end != NULL ? (size_t)(end - s) : n;
    char *copy = mem_alloc(length + 1);
    memcpy(copy, s, length);
    copy[length] = '\0';
    return copy;
}

char *mem_printf(const char *fmt, ...)
{
    char *text;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    return checked(n < 0 ? NULL : text);
}

void mem_wipe_free(char *secret)
{
    if (secret != NULL) {
        explicit_bzero(secret, strlen(secret));
        free(secret);
    }
}
