/* Merges: who with whom, after how long, and what holds them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "world.h"

#include "balance/heat.h"

#define HOUR 3600

static struct world *calm(size_t shards, const double *load)
{
    struct world *w = world_new(shards);
    w->policy.merge = AUTO_ON;
    for (size_t i = 0; i < shards; i++)
        w->load[i] = load[i];
    return w;
}

struct merge_case {
    const char *name;
    size_t shards;
    double load[4];
    void (*before)(struct world *w);
    void (*during)(struct world *w, int second);
    const char *kind; /* the whole log after two hours, without times; "" = nothing */
    int from, to;     /* seconds between which it must come */
    const char *sentence;
    bool on; /* goes on after the first entry: there must be no other */
};

static void merge_off(struct world *w)
{
    w->policy.merge = AUTO_OFF;
}
static void merge_recommend(struct world *w)
{
    w->policy.merge = AUTO_RECOMMEND;
    w->policy.merge_after_ns = 90 * 60 * S; /* once in the two hours */
}
static void pinned(struct world *w)
{
    w->shards[1].merge_hold = "s2 is pinned by its owner";
}
static void third_free(struct world *w)
{
    w->shards[0].merge_hold = "s1 is pinned by its owner";
}
static void least_two(struct world *w)
{
    w->facts.min_shards = 2;
}
static void split_lately(struct world *w)
{
    w->shards[0].last_move_ns = w->facts.now_ns + 1800 * S;
}
static void no_room(struct world *w)
{
    w->shards[0].may_receive = w->shards[1].may_receive = false;
}
static void only_the_small_may_receive(struct world *w)
{
    w->shards[1].may_receive = false; /* the one with more load would have been the target */
}
static void not_neighbours(struct world *w)
{
    w->sets[1].count = 0; /* the middle one owns nothing: s1 and s3 are far apart */
}
static void two_ranges(struct world *w, size_t shard)
{
    struct range *own = w->ranges[shard];
    own[1] = (struct range){own[0].lo + 1000, own[0].hi};
    own[0].hi = own[0].lo + 500; /* nobody's gap: enough for this */
    w->sets[shard].count = 2;
}
static void the_small_in_pieces(struct world *w)
{
    two_ranges(w, 0);
}
static void both_in_pieces(struct world *w)
{
    two_ranges(w, 0);
    two_ranges(w, 1);
}
static void operations_full(struct world *w)
{
    w->facts.running_operations = w->facts.max_operations = 1;
}
static void a_busy_minute(struct world *w, int second)
{
    w->load[0] = second / 60 == 30 ? 600 : 100;
}
static void a_hole(struct world *w, int second)
{
    w->load[0] = second / 60 == 30 || second / 60 == 31 ? (double)NAN : 100;
}
static void operation_at_first(struct world *w, int second)
{
    w->shards[0].operation = second < 5000 ? "op-4" : NULL;
}
static void move_at_first(struct world *w, int second)
{
    operation_at_first(w, second);
    if (second == 5000)
        w->shards[0].last_move_ns = w->facts.now_ns;
}
/* Carried out: s1's ranges go to s2. */
static void applied(struct world *w, int second)
{
    (void)second;
    if (w->changes.count > 0 && w->changes.items[0].kind == BALANCE_MERGE) {
        w->ranges[1][0].lo = INT64_MIN;
        w->sets[0].count = 0;
        w->load[0] = 0;
    }
}

static const struct merge_case merge_cases[] = {
    {"two idle ones",
     2,
     {100, 150},
     NULL,
     applied,
     "merge R18 s1>s2",
     HOUR,
     HOUR + 130,
     "shards s1 and s2 together stayed at or below 250 tx/s, under 0.5 x 1000 tx/s, for 1 h: merge s1 "
     "into s2",
     true},
    {"one that has several ranges cannot be given away in one move",
     2,
     {100, 150},
     the_small_in_pieces,
     NULL,
     "merge R18 s2>s1",
     HOUR,
     HOUR + 130,
     NULL,
     false},
    {"both have several ranges", 2, {100, 150}, both_in_pieces, NULL, "", 0, 0, NULL, false},
    {"together half the threshold", 2, {250, 250}, NULL, NULL, "", 0, 0, NULL, false},
    {"just below", 2, {250, 249}, NULL, applied, "merge R18 s2>s1", HOUR, HOUR + 130, NULL, false},
    {"only the cool pair of three",
     3,
     {700, 100, 90},
     NULL,
     NULL,
     "merge R18 s3>s2",
     HOUR,
     HOUR + 130,
     NULL,
     false},
    {"cool ones that are no neighbours", 3, {100, 0, 100}, not_neighbours, NULL, "", 0, 0, NULL, false},
    {"a busy minute starts the hour again",
     2,
     {100, 100},
     NULL,
     a_busy_minute,
     "merge R18 s1>s2",
     HOUR + 1800,
     HOUR + 2000,
     NULL,
     false},
    {"minutes without a figure too",
     2,
     {100, 100},
     NULL,
     a_hole,
     "merge R18 s1>s2",
     HOUR + 1800,
     HOUR + 2000,
     NULL,
     false},
    {"off", 2, {100, 100}, merge_off, NULL, "", 0, 0, NULL, false},
    {"recommended",
     2,
     {100, 100},
     merge_recommend,
     NULL,
     "merge? R18 s1>s2",
     5400,
     5530,
     "recommended only",
     true},
    {"pinned",
     2,
     {100, 100},
     pinned,
     NULL,
     "refuse R19 s1>s2",
     HOUR,
     HOUR + 130,
     "pinned by its owner",
     true},
    {"another pair than the pinned one",
     3,
     {50, 60, 300},
     third_free,
     NULL,
     "merge R18 s2>s3",
     HOUR,
     HOUR + 130,
     NULL,
     false},
    {"the least number of shards",
     2,
     {100, 100},
     least_two,
     NULL,
     "refuse R19 s1>s2",
     HOUR,
     HOUR + 130,
     "at least 2 shards",
     true},
    {"too many operations",
     2,
     {100, 100},
     operations_full,
     NULL,
     "refuse R19 s1>s2",
     HOUR,
     HOUR + 130,
     "1 moves run",
     true},
    {"split lately",
     2,
     {100, 100},
     split_lately,
     applied,
     "merge R18 s1>s2",
     HOUR + 1800,
     HOUR + 2000,
     NULL,
     true},
    {"nowhere to go", 2, {100, 100}, no_room, NULL, "", 0, 0, NULL, false},
    {"into the one that has room",
     2,
     {100, 150},
     only_the_small_may_receive,
     NULL,
     "merge R18 s2>s1",
     HOUR,
     HOUR + 130,
     NULL,
     false},
    {"a move runs, then its hour", 2, {100, 100}, NULL, move_at_first, "", 0, 0, NULL, false},
    {"what moves nothing runs",
     2,
     {100, 100},
     NULL,
     operation_at_first,
     "merge R18 s1>s2",
     5000,
     5000,
     NULL,
     false},
};

/* The log's first entry without its time, and that time; entries after it make it differ. */
static int first_entry(const struct world *w, char *out, size_t size)
{
    const char *text = buf_text(&w->log), *at = strstr(text, " @");
    snprintf(out, size, "%.*s%s", at != NULL ? (int)(at - text) : 0, text,
             strchr(text, ',') != NULL ? " and more" : "");
    return at != NULL ? atoi(at + 2) : 0;
}

static void test_merge(void **state)
{
    (void)state;
    int failures = 0;
    for (size_t i = 0; i < sizeof merge_cases / sizeof *merge_cases; i++) {
        const struct merge_case *c = &merge_cases[i];
        struct world *w = calm(c->shards, c->load);
        struct balance_change last = {0};
        if (c->before != NULL)
            c->before(w);
        for (int second = 1; second <= 2 * HOUR && (c->on || w->log.length == 0); second++) {
            if (c->during != NULL)
                c->during(w, second);
            world_tick(w);
            if (w->changes.count > 0)
                last = w->changes.items[0];
        }
        char kind[300];
        int at = first_entry(w, kind, sizeof kind);
        if (strcmp(kind, c->kind) != 0 || at < c->from || at > c->to ||
            (c->sentence != NULL && strstr(last.sentence, c->sentence) == NULL)) {
            print_error("%s: wanted %s @%d..%d, got %s\n  %s\n", c->name, c->kind, c->from, c->to,
                        buf_text(&w->log), last.sentence);
            failures++;
        }
        world_free(w);
    }
    assert_int_equal(failures, 0);
}

/* The one with less data moves, whatever its load. */
static void test_less_data_moves(void **state)
{
    (void)state;
    double load[] = {10, 200};
    struct world *w = calm(2, load);
    w->size[0] = 9e9;
    w->size[1] = 1e9;
    for (int second = 0; second < 2 * HOUR && w->log.length == 0; second++)
        world_tick(w);
    assert_non_null(strstr(buf_text(&w->log), "merge R18 s2>s1"));
    world_free(w);
}

/* A hot shard anywhere in the database: merging waits. */
static void test_waits_while_hot(void **state)
{
    (void)state;
    double load[] = {100, 100, 1500};
    struct world *w = calm(3, load);
    w->policy.split = AUTO_OFF;
    world_run(w, HOUR + 600);
    assert_null(strstr(buf_text(&w->log), "merge"));
    w->load[2] = 700;
    world_run(w, 5);
    assert_non_null(strstr(buf_text(&w->log), "merge R18"));
    world_free(w);
}

static void test_refusal_shown(void **state)
{
    (void)state;
    double load[] = {100, 100};
    struct world *w = calm(2, load);
    pinned(w);
    world_run(w, HOUR + 600);
    const struct balance_refusal *r = balance_state_merge_refusal(w->state);
    assert_true(r->active);
    assert_int_equal(r->rule, BALANCE_R_MERGE_HELD);
    assert_true(r->last_ns > r->since_ns);
    w->load[0] = 450;
    world_run(w, 5);
    assert_false(r->active);
    world_free(w);
}

/* Its next sample is due later than that of others: the newest is not taken for one that is followed by none.
 */
static void test_newest_of_a_shard_at_rest(void **state)
{
    (void)state;
    double load[] = {100, 100};
    struct world *w = calm(2, load);
    world_run(w, 30);
    assert_true(heat_peak(&w->facts, 0) > 0);
    w->facts.now_ns += 19 * S / 10;
    assert_false(heat_peak(&w->facts, 0) > 0);
    w->shards[0].period_ns = 2 * S;
    assert_true(heat_peak(&w->facts, 0) > 0);
    w->facts.now_ns += 2 * S;
    assert_false(heat_peak(&w->facts, 0) > 0);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_less_data_moves),
        cmocka_unit_test(test_waits_while_hot),
        cmocka_unit_test(test_refusal_shown),
        cmocka_unit_test(test_newest_of_a_shard_at_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
