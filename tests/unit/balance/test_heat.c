/*
 * What the others carried, for all shards at once, against the same asked of one after the other: by chance,
 * with polls that wander, samples that are missing or not known, shards without ranges and without a primary.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "balance/heat.h"

#define S      1000000000ull
#define SHARDS 9

struct fleet_of_rings {
    struct load_ring rings[SHARDS];
    struct balance_shard_facts shards[SHARDS];
    struct balance_policy policy;
    struct balance_facts facts;
    struct range_set all, none;
    uint64_t random;
    bool wander; /* the moments of the samples; else they are seconds apart */
};

static uint64_t draw(struct fleet_of_rings *f, uint64_t below)
{
    f->random = f->random * 6364136223846793005ull + 1442695040888963407ull;
    return (f->random >> 33) % below;
}

static void fill(struct fleet_of_rings *f, size_t i)
{
    uint64_t at_ns = f->wander ? S + draw(f, S) : S + draw(f, 2) * S, samples = draw(f, 9);
    load_ring_init(&f->rings[i]);
    at_ns += (8 - samples) * S; /* they end together, more or less */
    for (uint64_t n = 0; n < samples; n++) {
        struct load_sample s = {.at_ns = at_ns};
        for (int m = 0; m < LOAD_METRIC_MAX; m++)
            s.value[m] = NAN;
        if (draw(f, 8) > 0)
            s.value[LOAD_QUERY_RATE] = (float)draw(f, 1000);
        load_ring_add(&f->rings[i], &s);
        f->facts.now_ns = at_ns > f->facts.now_ns ? at_ns : f->facts.now_ns;
        at_ns += draw(f, 12) == 0 ? 2 * S : f->wander ? S - S / 20 + draw(f, S / 10) : S;
    }
    f->shards[i] = (struct balance_shard_facts){.name = "s",
                                                .ranges = draw(f, 6) == 0 ? &f->none : &f->all,
                                                .load = draw(f, 8) == 0 ? NULL : &f->rings[i]};
}

static bool near(const struct load_sample *s, uint64_t at_ns)
{
    return (s->at_ns > at_ns ? s->at_ns - at_ns : at_ns - s->at_ns) <= S;
}

/* What the others of this shard carried at its newest sample, which is there. */
static double others_of(const struct fleet_of_rings *f, size_t shard, bool *compared)
{
    double sum = 0;
    int known = 0;
    struct load_sample own, s;
    assert_true(load_ring_second(f->shards[shard].load, 0, &own));
    *compared = false;
    for (size_t i = 0; i < SHARDS; i++) {
        if (i == shard || f->shards[i].ranges->count == 0)
            continue;
        *compared = true;
        for (unsigned n = 0; f->shards[i].load != NULL && load_ring_second(f->shards[i].load, n, &s); n++)
            if (near(&s, own.at_ns)) {
                sum += isnan(s.value[LOAD_QUERY_RATE]) ? 0 : (double)s.value[LOAD_QUERY_RATE];
                known += !isnan(s.value[LOAD_QUERY_RATE]);
                break;
            }
    }
    return !*compared ? 0 : known > 0 ? sum / known : (double)NAN;
}

static void test_others(void **state)
{
    unsigned asked = 0, unknown = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        struct fleet_of_rings f = {.random = seed,
                                   .policy = {.threshold = 100, .relative = 1.5, .window = 1}};
        struct err err = {0};
        assert_int_equal(range_set_add(&f.all, &(struct range){INT64_MIN, INT64_MAX}, &err), 0);
        f.policy.objective = LOAD_QUERY_RATE;
        f.facts.policy = &f.policy;
        f.facts.shards = f.shards;
        f.facts.shard_count = SHARDS;
        f.wander = draw(&f, 2) == 0;
        for (size_t i = 0; i < SHARDS; i++)
            fill(&f, i);
        struct heat *heats = heat_measure(&f.facts);
        for (size_t i = 0; i < SHARDS; i++) {
            bool compared;
            if (isnan(heats[i].load))
                continue; /* not known itself, or late */
            double expected = others_of(&f, i, &compared);
            asked++;
            unknown += isnan(expected) ? 1 : 0;
            assert_int_equal(heats[i].compared, compared);
            if (isnan(expected) ? !isnan(heats[i].others) : heats[i].others != expected)
                fail_msg("seed %llu, shard %zu: others %f, expected %f", (unsigned long long)seed, i,
                         heats[i].others, expected);
            bool warm = heats[i].load > 100;
            assert_int_equal(heats[i].above,
                             warm && !isnan(expected)); /* what nobody can be compared with is missing */
            assert_int_equal(heats[i].row, heats[i].above && (!compared || heats[i].load > 1.5 * expected));
        }
        free(heats);
        for (size_t i = 0; i < SHARDS; i++)
            load_ring_fini(&f.rings[i]);
        range_set_free(&f.all);
    }
    assert_true(asked > 4000 && unknown > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_others)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
