/*
 * human: numbers as people read them. Pure; every out holds HUMAN_SIZE bytes, every function returns out.
 */
#ifndef CLI_HUMAN_H
#define CLI_HUMAN_H

#include <stdbool.h>
#include <stdint.h>

#define HUMAN_SIZE 32

char *human_bytes(double bytes, char out[HUMAN_SIZE]);      /* "0 B", "12.3 MiB" */
char *human_count(double count, char out[HUMAN_SIZE]);      /* "0", "0.3", "982", "12.3k", "4.1M" */
char *human_age(double seconds, char out[HUMAN_SIZE]);      /* as kubectl: "45s", "3m12s", "5h", "12d" */
char *human_duration(double seconds, char out[HUMAN_SIZE]); /* "850 us", "7.3 ms", "1.24 s", "3m12s" */
char *human_percent(double share, char out[HUMAN_SIZE]);    /* 0.5 is "50%", 0.0004 is "<0.1%" */

/* "2026-11-21T07:15:00.123456Z" to microseconds since 1970; false if it is something else. */
bool human_time_parse(const char *text, int64_t *ret_us);

#endif
