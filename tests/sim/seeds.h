/*
 * seeds: the main program of a simulation whose runs follow from a seed, and whose planted faults must be
 * found.
 *
 *   sim_X
 *       `count` seeds from a random one on, and then each planted fault. With a sanitizer, which looks for
 *       other faults and is slow, a tenth of the seeds and no planted faults
 *   sim_X SEED [COUNT] [BUG]
 *       those seeds; a single one tells its story
 */
#ifndef SIM_SEEDS_H
#define SIM_SEEDS_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct seeds {
    const char *(*run)(uint64_t seed, int bug, bool tells); /* what was broken; NULL = it holds */
    const char *const *bug_names;                           /* [0] is that of no bug */
    int bug_count, count;
    int bug_seeds; /* tried for each planted fault, at most */
};

/* 1 when one of them is broken, which is printed. */
static int seeds_run(const struct seeds *s, uint64_t first, uint64_t count, int bug)
{
    for (uint64_t seed = first; seed < first + count; seed++) {
        const char *broken = s->run(seed, bug, count == 1);
        if (broken == NULL)
            continue;
        printf("%s: seed %" PRIu64 " (the %" PRIu64 ". one): %s\n", s->bug_names[bug], seed, seed - first + 1,
               broken);
        fflush(stdout);
        return 1;
    }
    return 0;
}

#ifdef __SANITIZE_ADDRESS__
#define SEEDS_IS_SLOW 1
#else
#define SEEDS_IS_SLOW 0
#endif

static int seeds_run_all(const struct seeds *s, uint64_t first)
{
    int count = SEEDS_IS_SLOW ? s->count / 10 : s->count;
    printf("%d seeds from %" PRIu64 " on\n", count, first);
    fflush(stdout);
    if (seeds_run(s, first, (uint64_t)count, 0) != 0)
        return 1;
    for (int bug = 1; bug < s->bug_count && !SEEDS_IS_SLOW; bug++)
        if (seeds_run(s, first, (uint64_t)s->bug_seeds, bug) == 0) {
            printf("%s: not noticed in %d seeds\n", s->bug_names[bug], s->bug_seeds);
            return 1;
        }
    return 0;
}

/* What main() returns. */
static int seeds_main(const struct seeds *s, int argc, char **argv)
{
    int bug = 0;
    if (argc == 1)
        return seeds_run_all(s, (uint64_t)time(NULL) * 1000);
    for (int i = 0; argc > 3 && i < s->bug_count; i++)
        if (strcmp(argv[3], s->bug_names[i]) == 0)
            bug = i;
    return seeds_run(s, strtoull(argv[1], NULL, 10), argc > 2 ? strtoull(argv[2], NULL, 10) : 1, bug);
}

#endif
