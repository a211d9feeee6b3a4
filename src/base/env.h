/*
 * env: the only door to time, randomness and the environment.
 *
 * Everything that decides takes a `struct env *` (or a `now` read from one), so that the simulation can put
 * its own clock and its own seeded randomness in. A check bans time(), clock_gettime(), rand(), getenv()
 * and uv_now() everywhere else.
 */
#ifndef BASE_ENV_H
#define BASE_ENV_H

#include <stddef.h>
#include <stdint.h>

#define ENV_NS_PER_MS 1000000ull
#define ENV_NS_PER_S  1000000000ull

struct env {
    uint64_t (*monotonic_ns)(struct env *env);             /* never goes back; for every timeout */
    int64_t (*wall_us)(struct env *env);                   /* microseconds since 1970 UTC; for display only */
    void (*random)(struct env *env, void *buf, size_t n);  /* fit for secrets in the system's env */
    const char *(*get)(struct env *env, const char *name); /* environment variable or NULL; not owned */
};

/* The real thing; one static object, valid for the life of the process, usable from any thread. */
struct env *env_system(void);

/* Nanoseconds since the machine booted, those it slept included (CLOCK_BOOTTIME): for what two processes of
 * one machine compare. */
uint64_t env_boot_ns(void);

/* Uniform in [0, bound) without modulo bias; bound >= 1. */
uint64_t env_random_below(struct env *env, uint64_t bound);

/* Uniform in [0, 1). */
double env_random_unit(struct env *env);

/* Writes wall time as RFC 3339 with microseconds, "2026-11-21T07:15:00.123456Z" (28 bytes with the NUL). */
#define ENV_TIME_SIZE 28
void env_format_time(int64_t wall_us, char out[ENV_TIME_SIZE]);

/* Writes n random lower-case letters and digits (without 0, 1, l and o) and a NUL: names and passwords. */
void env_random_text(struct env *env, char *out, size_t n);

#endif
