/*
 * load_pace: when operations start. Pure.
 *
 * Open loop: operation i is meant to start at base + i / rate, however late the earlier ones are, and its
 * latency counts from there (no coordinated omission). Closed loop (rate 0): whenever there is room.
 */
#ifndef LOAD_LOAD_PACE_H
#define LOAD_LOAD_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct load_pace {
    double rate; /* operations per second; 0 = closed loop */
    uint64_t base_ns;
    uint64_t issued; /* since base_ns */
};

void load_pace_init(struct load_pace *pace, double rate, uint64_t now_ns);

/* A new rate from now on; what was due before stays due. */
void load_pace_change(struct load_pace *pace, double rate, uint64_t now_ns);

/* Intended start of the next operation. Open loop only. */
uint64_t load_pace_next(const struct load_pace *pace);

/* Takes the next operation if it is due, and gives its intended start (closed loop: always due, now). */
bool load_pace_take(struct load_pace *pace, uint64_t now_ns, uint64_t *ret_intended_ns);

#endif
