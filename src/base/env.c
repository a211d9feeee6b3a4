#include "base/env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static uint64_t system_monotonic_ns(struct env *env)
{
    (void)env;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * ENV_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static int64_t system_wall_us(struct env *env)
{
    (void)env;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void system_random(struct env *env, void *buf, size_t n)
{
    (void)env;
    char *out = buf;
    while (n > 0) {
        ssize_t got = getrandom(out, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            abort(); /* without randomness no secret and no name is safe */
        out += got;
        n -= (size_t)got;
    }
}

static const char *system_get(struct env *env, const char *name)
{
    (void)env;
    return getenv(name);
}

struct env *env_system(void)
{
    static struct env env = {system_monotonic_ns, system_wall_us, system_random, system_get};
    return &env;
}

uint64_t env_boot_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * ENV_NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t env_random_below(struct env *env, uint64_t bound)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t value;
    do {
        env->random(env, &value, sizeof value);
    } while (value >= limit);
    return value % bound;
}

double env_random_unit(struct env *env)
{
    return (double)env_random_below(env, 1ull << 53) / (double)(1ull << 53);
}

void env_format_time(int64_t wall_us, char out[ENV_TIME_SIZE])
{
    time_t seconds = (time_t)(wall_us / 1000000);
    struct tm tm;
    char date[24];
    gmtime_r(&seconds, &tm);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, ENV_TIME_SIZE, "%.19s.%06uZ", date, (unsigned)(wall_us % 1000000) % 1000000u);
}

void env_random_text(struct env *env, char *out, size_t n)
{
    static const char alphabet[] = "abcdefghijkmnpqrstuvwxyz23456789";
    for (size_t i = 0; i < n; i++)
        out[i] = alphabet[env_random_below(env, sizeof alphabet - 1)];
    out[n] = '\0';
}
