/* Each rule: what the shards carry, what is asked of the balancer, what comes out and in which second. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "world.h"

#define QUIET 30 /* seconds of calm before the onset */

struct decide_case {
    const char *name;
    size_t shards;
    double load[4];     /* from the onset on */
    enum stream stream; /* of s1 */
    void (*before)(struct world *w);
    void (*during)(struct world *w, int second);
    int seconds;
    const char *log;      /* "?" = not to act; seconds from the onset */
    const char *sentence; /* part of the last change's; NULL = not looked at */
};

static void split_off(struct world *w)
{
    w->policy.split = AUTO_OFF;
}
static void split_recommend(struct world *w)
{
    w->policy.split = AUTO_RECOMMEND;
}
static void rebalance_on(struct world *w)
{
    w->policy.rebalance = AUTO_ON;
}
static void rebalance_recommend(struct world *w)
{
    w->policy.rebalance = AUTO_RECOMMEND;
}
static void only_rebalance(struct world *w)
{
    w->policy.split = AUTO_OFF;
    w->policy.rebalance = AUTO_ON;
}
static void rebalance_target_bad(struct world *w)
{
    rebalance_on(w);
    w->shards[1].may_receive = false;
}
static void rebalance_target_busy(struct world *w)
{
    rebalance_on(w);
    w->shards[1].operation = "op-9";
}
static void rebalance_few_writes(struct world *w)
{
    rebalance_on(w);
    w->facts.free_instances = 0;
}
static void max_shards(struct world *w)
{
    w->policy.max_shards = 2;
}
static void max_shards_pending(struct world *w)
{
    w->policy.max_shards = 3;
    w->facts.pending_shards = 1;
}
static void max_shards_rebalance(struct world *w)
{
    w->policy.max_shards = 2;
    w->policy.rebalance = AUTO_ON;
}
static void no_instance(struct world *w)
{
    w->facts.free_instances = 0;
}
static void disk_full(struct world *w)
{
    w->facts.free_instances = 0;
    w->facts.capacity_why = "the disk is 94 % full";
}
static void operation_runs(struct world *w)
{
    w->shards[0].operation = "op-17";
}
static void cooling(struct world *w)
{
    w->shards[0].last_move_ns = w->facts.now_ns - 200 * S;
}
static void cooled_soon(struct world *w)
{
    w->shards[0].last_move_ns = w->facts.now_ns + (QUIET + 20) * S - w->policy.cooldown_ns;
}
static void operations_full(struct world *w)
{
    w->facts.running_operations = w->facts.max_operations = 2;
}
static void one_operation(struct world *w)
{
    w->facts.max_operations = 1;
}
static void one_instance(struct world *w)
{
    w->facts.free_instances = 1;
}
static void stepwise(struct world *w)
{
    w->facts.stepwise = true;
}
static void stepwise_no_room(struct world *w)
{
    w->facts.stepwise = true;
    w->facts.free_instances = 2;
}
static void five_ranges(struct world *w)
{
    for (int i = 0; i < 5; i++)
        w->ranges[0][i] = (struct range){INT64_MIN + 1000000ll * i, INT64_MIN + 1000000ll * i + 499999};
    w->sets[0].count = 5;
}
static void rows_empty(struct world *w)
{
    w->rows_empty = true;
}
static void rows_never(struct world *w)
{
    w->rows_never = true;
}
static void by_size(struct world *w)
{
    w->policy.objective = LOAD_SIZE;
    w->policy.threshold = 10e9;
}
static void by_cpu(struct world *w)
{
    w->policy.objective = LOAD_CPU;
    w->policy.threshold = 2;
}
static void not_watched(struct world *w)
{
    w->shards[1].load = NULL;
}

static void falls_at_8(struct world *w, int second)
{
    w->load[0] = second < 8 ? 1500 : 100;
}
static void falls_at_5(struct world *w, int second)
{
    w->load[0] = second < 5 ? 1500 : 100;
}
static void flaps(struct world *w, int second)
{
    w->load[0] = second % 10 < 8 ? 1500 : 900;
}
static void missing_at_5(struct world *w, int second)
{
    w->load[0] = second == 5 ? (double)NAN : 1500;
}
static void missing_at_9(struct world *w, int second)
{
    w->load[0] = second == 9 ? (double)NAN : 1500;
}
static void no_poll_at_5(struct world *w, int second)
{
    w->load[0] = second == 5 ? -1 : 1500;
}
static void no_poll_at_9(struct world *w, int second)
{
    w->load[0] = second == 9 ? -1 : 1500;
}
static void others_missing_at_9(struct world *w, int second)
{
    w->load[1] = second == 9 ? (double)NAN : 100;
}
static void one_other_missing(struct world *w, int second)
{
    w->load[2] = second > 3 ? (double)NAN : 100;
}
static void others_rise_at_9(struct world *w, int second)
{
    w->load[1] = second < 9 ? 100 : 1400;
}
static void gate_opens_at_20(struct world *w, int second)
{
    w->facts.free_instances = second < 20 ? 0 : 1;
}
static void gate_shuts_at_9(struct world *w, int second)
{
    w->shards[0].operation = second >= 9 ? "op-3" : NULL;
}
static void at_threshold(struct world *w, int second)
{
    (void)second;
    w->load[0] = w->policy.threshold;
}

static const struct decide_case decide_cases[] = {
    {"hot: listens at 7, splits at 10",
     2,
     {1500, 500},
     EVEN,
     NULL,
     NULL,
     11,
     "sample R20 s1 @7, split R1 s1 @10",
     "shard s1 carries 1500 tx/s, above 1000 tx/s and 3.0 x the mean of the other shards for 10 s: split at "
     "-"},
    {"a single shard is compared with nothing",
     1,
     {1500},
     EVEN,
     NULL,
     NULL,
     11,
     "sample R20 s1 @7, split R1 s1 @10",
     "carries 1500 tx/s, above 1000 tx/s for 10 s: split at"},
    {"at the threshold is not above it", 1, {1000}, EVEN, NULL, at_threshold, 60, "", NULL},
    {"even load", 2, {1500, 1400}, EVEN, NULL, NULL, 60, "refuse R2 s1 @10, refuse R2 s2 @10", "only 0.93 x"},
    {"1.3 x one other",
     2,
     {1500, 1150},
     EVEN,
     NULL,
     NULL,
     11,
     "refuse R2 s2 @10, split R1 s1 @10, sample R20 s1 @7",
     NULL},
    {"one other below 1.2 x is enough to be even",
     2,
     {1500, 1300},
     EVEN,
     NULL,
     NULL,
     12,
     "refuse R2 s1 @10, refuse R2 s2 @10",
     NULL},
    {"the mean is of the others",
     4,
     {1500, 1900, 100, 100},
     EVEN,
     NULL,
     NULL,
     9,
     "sample R20 s1 @7, sample R20 s2 @7",
     NULL},
    {"falls while warm: nothing to say", 2, {1500, 100}, EVEN, NULL, falls_at_5, 30, "", NULL},
    {"falls while sampled",
     2,
     {1500, 100},
     EVEN,
     NULL,
     falls_at_8,
     30,
     "sample R20 s1 @7, refuse R14 s1 @8",
     "its load fell to 100 tx/s"},
    {"flaps: sampled once, then only full rows",
     2,
     {1500, 100},
     EVEN,
     NULL,
     flaps,
     200,
     "sample R20 s1 @7, refuse R14 s1 @8",
     NULL},
    {"a sample missing early",
     2,
     {1500, 100},
     EVEN,
     NULL,
     missing_at_5,
     16,
     "sample R20 s1 @12, split R1 s1 @15",
     NULL},
    {"a sample missing late",
     2,
     {1500, 100},
     EVEN,
     NULL,
     missing_at_9,
     20,
     "sample R20 s1 @7, refuse R3 s1 @9, sample R20 s1 @16, split R1 s1 @19",
     NULL},
    {"a poll that never came, early",
     2,
     {1500, 100},
     EVEN,
     NULL,
     no_poll_at_5,
     16,
     "sample R20 s1 @12, split R1 s1 @15",
     NULL},
    {"a poll that never came, late",
     2,
     {1500, 100},
     EVEN,
     NULL,
     no_poll_at_9,
     20,
     "sample R20 s1 @7, refuse R3 s1 @10, sample R20 s1 @16, split R1 s1 @19",
     NULL},
    {"all others missing",
     2,
     {1500, 100},
     EVEN,
     NULL,
     others_missing_at_9,
     10,
     "sample R20 s1 @7, refuse R3 s1 @9",
     NULL},
    {"the only other is not watched", 2, {1500, 100}, EVEN, not_watched, NULL, 30, "", NULL},
    {"one of two others missing",
     3,
     {1500, 100, 100},
     EVEN,
     NULL,
     one_other_missing,
     11,
     "sample R20 s1 @7, split R1 s1 @10",
     NULL},
    {"others rise while sampled",
     2,
     {1500, 100},
     EVEN,
     NULL,
     others_rise_at_9,
     12,
     "sample R20 s1 @7, refuse R2 s1 @9",
     NULL},
    {"off", 2, {1500, 100}, EVEN, split_off, NULL, 60, "refuse R4 s1 @10", "not split because R4"},
    {"recommend: said once",
     2,
     {1500, 100},
     EVEN,
     split_recommend,
     NULL,
     300,
     "sample R20 s1 @7, split? R1 s1 @10",
     "recommended only"},
    {"operation runs",
     2,
     {1500, 100},
     EVEN,
     operation_runs,
     NULL,
     60,
     "refuse R5 s1 @10",
     "operation op-17 runs"},
    {"operation begins while sampled",
     2,
     {1500, 100},
     EVEN,
     NULL,
     gate_shuts_at_9,
     30,
     "sample R20 s1 @7, refuse R5 s1 @9",
     NULL},
    {"cool-down",
     2,
     {1500, 100},
     EVEN,
     cooling,
     NULL,
     60,
     "refuse R6 s1 @10",
     "its last change was 4 min ago and the cool-down is 10 min"},
    {"cool-down ends",
     2,
     {1500, 100},
     EVEN,
     cooled_soon,
     NULL,
     24,
     "refuse R6 s1 @10, sample R20 s1 @20, split R1 s1 @23",
     NULL},
    {"one key",
     2,
     {1500, 100},
     HOT_KEY,
     NULL,
     NULL,
     60,
     "sample R20 s1 @7, refuse R7 s1 @10, isolate? R8 s1 @10",
     "carries 6"},
    {"keys change",
     2,
     {1500, 100},
     KEYS_CHANGE,
     NULL,
     NULL,
     60,
     "sample R20 s1 @7, refuse R9 s1 @10",
     "hot keys"},
    {"a range that walks",
     2,
     {1500, 100},
     SWEEP,
     NULL,
     NULL,
     60,
     "sample R20 s1 @7, refuse R9 s1 @10",
     "part to move"},
    {"five even ranges",
     2,
     {1500, 100},
     EVEN,
     five_ranges,
     NULL,
     60,
     "sample R20 s1 @7, refuse R10 s1 @10",
     "of its load, worse than 25:75"},
    {"max_shards",
     2,
     {1500, 100},
     EVEN,
     max_shards,
     NULL,
     60,
     "refuse R11 s1 @10",
     "has 2 shards of at most 2"},
    {"max_shards counts those being made",
     2,
     {1500, 100},
     EVEN,
     max_shards_pending,
     NULL,
     60,
     "refuse R11 s1 @10",
     "has 3 shards of at most 3"},
    {"no instance", 2, {1500, 100}, EVEN, no_instance, NULL, 60, "refuse R12 s1 @10", "no free instance"},
    {"disk full", 2, {1500, 100}, EVEN, disk_full, NULL, 60, "refuse R12 s1 @10", "the disk is 94 % full"},
    {"room comes",
     2,
     {1500, 100},
     EVEN,
     NULL,
     gate_opens_at_20,
     24,
     "refuse R12 s1 @10, sample R20 s1 @20, split R1 s1 @23",
     NULL},
    {"still hot after a split",
     2,
     {2500, 100},
     EVEN,
     NULL,
     NULL,
     60,
     "sample R20 s1 @7, refuse R13 s1 @10",
     "not both below 1000 tx/s"},
    {"the first of several splits",
     2,
     {2500, 100},
     EVEN,
     stepwise,
     NULL,
     11,
     "sample R20 s1 @7, split R1 s1 @10",
     NULL},
    {"no room for several",
     2,
     {3500, 100},
     EVEN,
     stepwise_no_room,
     NULL,
     11,
     "sample R20 s1 @7, refuse R13 s1 @10",
     NULL},
    {"few writes",
     2,
     {1500, 100},
     FEW,
     NULL,
     NULL,
     13,
     "sample R20 s1 @7, sample-rows R20 s1 @9, split R15 s1 @10",
     "the median of 2000 sampled rows because only 15 writes were seen in 2.9 s"},
    {"no writes at all",
     2,
     {1500, 100},
     NOTHING,
     NULL,
     NULL,
     13,
     "sample R20 s1 @7, sample-rows R20 s1 @9, split R15 s1 @10",
     "only 0 writes"},
    {"no writes and no rows",
     2,
     {1500, 100},
     NOTHING,
     rows_empty,
     NULL,
     50,
     "sample R20 s1 @7, sample-rows R20 s1 @9, refuse R16 s1 @10",
     "nothing was seen"},
    {"no writes, rows never come",
     2,
     {1500, 100},
     NOTHING,
     rows_never,
     NULL,
     50,
     "sample R20 s1 @7, sample-rows R20 s1 @9, refuse R16 s1 @24",
     "did not come in time"},
    {"stream cannot be read",
     2,
     {1500, 100},
     STREAM_ERROR,
     NULL,
     NULL,
     13,
     "sample R20 s1 @7, sample-rows R20 s1 @8, split R15 s1 @10",
     "permission denied"},
    {"stream does not begin",
     2,
     {1500, 100},
     NO_STREAM,
     NULL,
     NULL,
     20,
     "sample R20 s1 @7, sample-rows R20 s1 @17, split R15 s1 @18",
     "did not begin in time"},
    {"size: by rows",
     2,
     {15e9, 1e9},
     EVEN,
     by_size,
     NULL,
     12,
     "sample-rows R20 s1 @7, split R15 s1 @10",
     "carries 14.0 GB, above 9.3 GB"},
    {"cpu", 2, {3.2, 0.4}, EVEN, by_cpu, NULL, 12, "sample R20 s1 @7, split R1 s1 @10", "carries 3.20 cores"},
    {"rebalance to a cool shard",
     2,
     {1300, 100},
     EVEN,
     rebalance_on,
     NULL,
     12,
     "sample R20 s1 @7, rebalance R17 s1>s2 @10",
     "to shard s2, projected 6"},
    {"the coolest one",
     3,
     {1300, 90, 50},
     EVEN,
     rebalance_on,
     NULL,
     12,
     "sample R20 s1 @7, rebalance R17 s1>s3 @10",
     NULL},
    {"rebalance only recommended: split",
     2,
     {1300, 100},
     EVEN,
     rebalance_recommend,
     NULL,
     12,
     "sample R20 s1 @7, split R1 s1 @10",
     NULL},
    {"rebalance while splitting is off",
     2,
     {1300, 100},
     EVEN,
     only_rebalance,
     NULL,
     12,
     "sample R20 s1 @7, rebalance R17 s1>s2 @10",
     NULL},
    {"no shard cool enough and splitting off",
     2,
     {1900, 400},
     EVEN,
     only_rebalance,
     NULL,
     30,
     "refuse R4 s1 @10",
     NULL},
    {"target would be too warm: split",
     2,
     {1500, 200},
     EVEN,
     rebalance_on,
     NULL,
     12,
     "sample R20 s1 @7, split R1 s1 @10",
     NULL},
    {"target has no room: split",
     2,
     {1300, 100},
     EVEN,
     rebalance_target_bad,
     NULL,
     12,
     "sample R20 s1 @7, split R1 s1 @10",
     NULL},
    {"target is busy: split",
     2,
     {1300, 100},
     EVEN,
     rebalance_target_busy,
     NULL,
     12,
     "sample R20 s1 @7, split R1 s1 @10",
     NULL},
    {"rebalance though max_shards",
     2,
     {1300, 100},
     EVEN,
     max_shards_rebalance,
     NULL,
     12,
     "sample R20 s1 @7, rebalance R17 s1>s2 @10",
     NULL},
    {"rebalance by rows says so",
     2,
     {1300, 100},
     FEW,
     rebalance_few_writes,
     NULL,
     12,
     "sample R20 s1 @7, sample-rows R20 s1 @9, rebalance R17 s1>s2 @10",
     "(median of 2000 sampled rows"},
    {"too many operations",
     2,
     {1500, 100},
     EVEN,
     operations_full,
     NULL,
     30,
     "refuse R21 s1 @10",
     "2 moves run already and at most 2 may"},
    {"two hot, one operation",
     4,
     {1500, 1500, 100, 100},
     EVEN,
     one_operation,
     NULL,
     10,
     "sample R20 s1 @7, sample R20 s2 @7, split R1 s1 @10, refuse R21 s2 @10",
     NULL},
    {"two hot, one instance",
     4,
     {1500, 1500, 100, 100},
     EVEN,
     one_instance,
     NULL,
     10,
     "sample R20 s1 @7, sample R20 s2 @7, split R1 s1 @10, refuse R12 s2 @10",
     NULL},
};

static struct world *onset(const struct decide_case *c)
{
    struct world *w = world_new(c->shards);
    if (c->before != NULL)
        c->before(w);
    for (size_t i = 0; i < c->shards; i++)
        w->load[i] = w->policy.threshold / 10;
    world_run(w, QUIET);
    assert_int_equal(w->log.length, 0);
    w->epoch = w->second;
    w->stream[0] = c->stream;
    for (size_t i = 0; i < c->shards; i++)
        w->load[i] = c->load[i];
    return w;
}

/* Both logs hold the same entries; those of one second may come in any order. */
static bool same_log(const char *wanted, const char *got)
{
    char copy[1024];
    snprintf(copy, sizeof copy, "%s", wanted);
    size_t length = 0;
    char *rest = NULL;
    for (char *item = strtok_r(copy, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) {
        item += *item == ' ';
        length += strlen(item) + 2;
        if (strstr(got, item) == NULL)
            return false;
    }
    return strlen(got) + 2 == length || (length == 0 && *got == '\0');
}

/* No word of a template is left, and the sentence names its rule. */
static void check_sentence(const struct balance_change *c)
{
    char number[8];
    snprintf(number, sizeof number, "R%d", c->rule);
    if (strchr(c->sentence, '<') != NULL || strstr(c->sentence, number) == NULL ||
        strstr(c->sentence, c->shard) == NULL || strlen(c->sentence) + 1 >= BALANCE_SENTENCE_SIZE)
        fail_msg("sentence of R%d: %s", c->rule, c->sentence);
}

static void test_decide(void **state)
{
    (void)state;
    int failures = 0;
    for (size_t i = 0; i < sizeof decide_cases / sizeof *decide_cases; i++) {
        const struct decide_case *c = &decide_cases[i];
        struct world *w = onset(c);
        struct balance_change last = {.kind = BALANCE_KIND_MAX};
        for (int second = 1; second <= c->seconds; second++) {
            if (c->during != NULL)
                c->during(w, second);
            world_tick(w);
            for (size_t n = 0; n < w->changes.count; n++) {
                last = w->changes.items[n];
                check_sentence(&last);
            }
        }
        if (!same_log(c->log, buf_text(&w->log)))
            print_error("%s:\n  wanted %s\n  got    %s\n", c->name, c->log, buf_text(&w->log)), failures++;
        if (c->sentence != NULL && strstr(last.sentence, c->sentence) == NULL)
            print_error("%s: %s\n", c->name, last.sentence), failures++;
        world_free(w);
    }
    assert_int_equal(failures, 0);
}

/* Every rule of the table but R18 and R19 (test_merge.c) is reached above: none is dead. */
static void test_all_rules_reached(void **state)
{
    (void)state;
    for (int rule = 1; rule < BALANCE_R_COUNT; rule++) {
        bool found = rule == BALANCE_R_MERGE || rule == BALANCE_R_MERGE_HELD;
        char text[16];
        snprintf(text, sizeof text, " R%d ", rule);
        for (size_t i = 0; i < sizeof decide_cases / sizeof *decide_cases && !found; i++)
            found = strstr(decide_cases[i].log, text) != NULL;
        if (!found)
            fail_msg("no case for R%d", rule);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decide),
        cmocka_unit_test(test_all_rules_reached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
