/*
 * queue_time: how long this thread has stood in line for a processor since it began. A bound on how long a
 * turn of the loop takes holds on a busy machine when what it stood in line meanwhile is allowed as well.
 */
#ifndef SUPPORT_QUEUE_TIME_H
#define SUPPORT_QUEUE_TIME_H

#include <stdint.h>
#include <stdio.h>

/* Microseconds; 0 where the kernel does not tell. */
static inline uint64_t queue_time_us(void)
{
    unsigned long long ran_ns = 0, waited_ns = 0;
    FILE *file = fopen("/proc/thread-self/schedstat", "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%llu %llu", &ran_ns, &waited_ns) != 2)
        waited_ns = 0;
    (void)fclose(file);
    return waited_ns / 1000;
}

#endif
