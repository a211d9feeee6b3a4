/*
 * mem: allocation that cannot fail.
 *
 * Every size that a peer can influence is limited before it gets here, so that running out of memory means
 * the machine is out of memory: these abort with one line on stderr, and the supervisor restarts us into a
 * journal that can be resumed. Free with free().
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Once, at the start of a program that runs for long, before it has threads: they share one heap. By default
 * each has its own, and what the workers allocate for connections that end and come back again would stay
 * behind in one after the other. And what is large goes back when it is freed, however large others were
 * before: by default the C library takes ever larger ones from the heap, where they leave holes.
 */
void mem_share_heap(void);

/*
 * For whoever looks now and then: when at least `least` bytes more are resident without being in use than at
 * the least that was seen, free pages go back to the system, also those that lie between others. (By itself
 * the C library gives back the end of the heap only, and what lasts comes to lie there in a burst.) True if
 * it was so; that takes some milliseconds for tens of megabytes, and a look some 0.1. Never where the C
 * library or the system cannot tell.
 */
struct mem_use {
    size_t least_idle; /* resident and not in use, at a look */
    bool looked;
};
bool mem_settle(struct mem_use *use, size_t least);

void *mem_alloc(size_t size);               /* uninitialised */
void *mem_zalloc(size_t size);              /* zeroed */
void *mem_array(size_t count, size_t size); /* zeroed; overflow aborts */
void *mem_resize(void *p, size_t count, size_t size);
char *mem_strdup(const char *s); /* NULL gives NULL */
char *mem_strndup(const char *s, size_t n);
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Overwrites with zeros in a way the compiler keeps, then frees: for secrets. NULL is fine. */
void mem_wipe_free(char *secret);

#endif
