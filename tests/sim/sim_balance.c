/* links: balance fleet */
/*
 * Load curves against the whole balancer, with consequences: what it decides is carried out. Without
 * arguments each scenario runs with seeds 1 to 5; `sim_balance SEED` runs them with that one. A failure
 * prints its seed.
 */
#include "toy_fleet.h"

#define WHOLE_HOUR 3600.0

/* ---- curves ---- */

static double steady(const struct toy_source *s, double t)
{
    (void)t;
    return s->base;
}

static double step(const struct toy_source *s, double t)
{
    return t >= s->from && t < s->until ? s->base + s->extra : s->base;
}

/* From base to base + extra between from and until. */
static double ramp(const struct toy_source *s, double t)
{
    double part = (t - s->from) / (s->until - s->from);
    return s->base + s->extra * (part < 0 ? 0 : part > 1 ? 1 : part);
}

/* 8 s up, 4 s down. */
static double flap(const struct toy_source *s, double t)
{
    return t >= s->from && fmod(t - s->from, 12) < 8 ? s->base + s->extra : s->base;
}

static double wave(const struct toy_source *s, double t)
{
    return s->base + s->extra * sin((t - s->from) / s->until * 6.283185307179586);
}

static struct toy_source *add_source(struct toy *toy, struct range where,
                                     double (*rate)(const struct toy_source *, double), double base)
{
    struct toy_source *s = &toy->sources[toy->source_count++];
    *s = (struct toy_source){.where = where, .rate = rate, .base = base, .until = INFINITY};
    return s;
}

/* `base` on every shard, evenly. */
static void add_base(struct toy *toy, double base)
{
    struct range whole = {INT64_MIN, INT64_MAX};
    add_source(toy, whole, steady, base * (double)toy_shard_count(toy));
}

static struct toy_source *add_on(struct toy *toy, size_t shard,
                                 double (*rate)(const struct toy_source *, double), double base, double extra)
{
    struct toy_source *s = add_source(toy, toy->shards[shard].ranges.items[0], rate, base);
    s->extra = extra;
    return s;
}

static void print_done(const struct toy *toy, const char *fmt, double a, double b)
{
    printf("%-22s seed %-4" PRIu64 " ", toy->scenario, toy->seed);
    printf(strcmp(fmt, "time") == 0 ? "decided %.1f s after the onset, greatest load after it %.0f tx/s\n"
                                    : "%.0f changes, %.0f shards\n",
           a, b);
}

static void print_counts(const struct toy *toy)
{
    double moves = (double)(toy_count(toy, BALANCE_SPLIT) + toy_count(toy, BALANCE_MERGE) +
                            toy_count(toy, BALANCE_REBALANCE));
    print_done(toy, "counts", moves, (double)toy_shard_count(toy));
}

/* ---- scenarios ---- */

static void scenario_step(struct toy *toy)
{
    double onset = toy->t + 120 + toy_unit(toy);
    add_base(toy, 300);
    add_on(toy, 0, step, 0, 1200)->from = onset;
    toy_run(toy, onset);
    toy_check(toy, toy->event_count == 0);
    toy_run(toy, onset + 600);
    double decided = toy_time(toy, BALANCE_SPLIT, 0) - onset;
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 1);
    toy_check(toy, decided >= 9 && decided <= 12);
    toy_check(toy, toy_count_rule(toy, BALANCE_R_SPLIT) == 1);
    toy_check(toy, toy_greatest_load(toy) < 900);
    print_done(toy, "time", decided, toy_greatest_load(toy));
}

static void scenario_ramp(struct toy *toy)
{
    double start = toy->t + 60, cross = start + 350; /* 300 + 2/s passes 1000 then */
    struct toy_source *s;
    add_base(toy, 100);
    s = add_on(toy, 0, ramp, 200, 1200);
    s->from = start;
    s->until = start + 600;
    toy_run(toy, start + 620);
    double decided = toy_time(toy, BALANCE_SPLIT, 0) - cross;
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 1);
    /* Noise of 1 % is 5 s of this ramp; three times that, and as long again as it takes to be hot and looked
     * at where it fell below the threshold meanwhile. */
    toy_check(toy, decided >= 0 && decided <= 12 + 15 + 13);
    print_done(toy, "time", decided, toy_greatest_load(toy));
}

static void scenario_flapping(struct toy *toy)
{
    double from = toy->t + 60;
    add_base(toy, 300);
    add_on(toy, 0, flap, 300, 700)->from = from;
    toy_run(toy, from + WHOLE_HOUR);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 0);
    toy_check(toy, toy_count(toy, BALANCE_SAMPLE) <= 13); /* not more than one for each five minutes */
    toy_check(toy, toy_count_rule(toy, BALANCE_R_LOAD_FELL) >= 1);
    print_counts(toy);
}

static void scenario_hot_key(struct toy *toy)
{
    double onset = toy->t + 60;
    struct range key = {INT64_MIN + 987654321, INT64_MIN + 987654321};
    add_base(toy, 300);
    struct toy_source *s = add_source(toy, key, step, 0);
    s->extra = 900;
    s->from = onset;
    toy_run(toy, onset + WHOLE_HOUR);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 0);
    toy_check(toy, toy_count_rule(toy, BALANCE_R_POPULAR_KEY) == 1);
    toy_check(toy, toy_count(toy, BALANCE_ISOLATE) == 1);
    toy_check(toy, toy_time(toy, BALANCE_REFUSE, 0) - onset <= 12);
    toy_check(toy, balance_state_find(toy->state, "s1")->refusal.active);
    toy_check(toy, toy_count(toy, BALANCE_SAMPLE) <= 12); /* backs off to once in 8 minutes */
    print_counts(toy);
}

static void scenario_uniform(struct toy *toy)
{
    add_base(toy, 1500);
    toy_run(toy, toy->t + WHOLE_HOUR);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 0);
    toy_check(toy, toy_count(toy, BALANCE_SAMPLE) == 0);
    toy_check(toy, toy_count_rule(toy, BALANCE_R_EVEN_LOAD) == toy_shard_count(toy));
    print_counts(toy);
}

static void scenario_vanish_sampling(struct toy *toy)
{
    double onset = toy->t + 60 + toy_unit(toy);
    add_base(toy, 300);
    struct toy_source *s = add_on(toy, 0, step, 0, 1200);
    s->from = onset;
    s->until = onset + 8.5;
    toy_run(toy, onset + 600);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 0);
    toy_check(toy, toy_count_rule(toy, BALANCE_R_LOAD_FELL) == 1);
    print_counts(toy);
}

/* The move is under way when the load goes: it ends, and after the calm the shards are merged again. */
static void scenario_vanish_split(struct toy *toy)
{
    double onset = toy->t + 60;
    add_base(toy, 260);
    struct toy_source *s = add_on(toy, 0, step, 0, 1200);
    s->from = onset;
    s->until = onset + 20;
    toy->facts.min_shards = 3;
    toy_run(toy, onset + 3 * WHOLE_HOUR);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 1);
    toy_check(toy, toy_count(toy, BALANCE_MERGE) == 1);
    toy_check(toy, toy_time(toy, BALANCE_MERGE, 0) - onset > WHOLE_HOUR);
    toy_check(toy, toy_shard_count(toy) == 3);
    print_counts(toy);
}

static void scenario_ten_hot(struct toy *toy)
{
    double onset = toy->t + 60 + toy_unit(toy);
    add_base(toy, 100);
    for (size_t i = 0; i < 10; i++)
        add_on(toy, 2 * i, step, 0, 1300)->from = onset;
    toy_run(toy, onset + 600);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 10);
    toy_check(toy, toy_time(toy, BALANCE_SPLIT, 9) - onset <= 12);
    toy_check(toy, toy_shard_count(toy) == 34);
    toy_check(toy, toy_greatest_load(toy) < 900);
    print_done(toy, "time", toy_time(toy, BALANCE_SPLIT, 9) - onset, toy_greatest_load(toy));
}

static void scenario_ten_hot_two_at_a_time(struct toy *toy)
{
    double onset = toy->t + 60;
    toy->facts.max_operations = 2;
    add_base(toy, 100);
    for (size_t i = 0; i < 10; i++)
        add_on(toy, 2 * i, step, 0, 1300)->from = onset;
    toy_run(toy, onset + 900);
    toy_check(toy, toy->most_moves == 2);
    toy_check(toy, toy_count_rule(toy, BALANCE_R_OPERATION_LIMIT) == 8);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 10);
    toy_check(toy, toy_greatest_load(toy) < 900);
    print_counts(toy);
}

static void scenario_just_below(struct toy *toy)
{
    add_base(toy, 300);
    add_on(toy, 0, steady, 680, 0); /* 980; the noise takes single samples above 1000 */
    toy_run(toy, toy->t + WHOLE_HOUR);
    toy_check(toy, toy->event_count == 0);
    print_counts(toy);
}

/* Three hot keys, other ones each second. */
static void new_keys(struct toy *toy)
{
    for (size_t i = 0; i < 3; i++) {
        int64_t hash = INT64_MIN + (int64_t)(toy_random(toy) >> 3); /* on s1 */
        toy->sources[1 + i].where = (struct range){hash, hash};
    }
}

static void scenario_append(struct toy *toy)
{
    double onset = toy->t + 60;
    struct range key = {INT64_MIN, INT64_MIN};
    add_base(toy, 300);
    for (int i = 0; i < 3; i++) {
        struct toy_source *s = add_source(toy, key, step, 0);
        s->extra = 300;
        s->from = onset;
    }
    toy->update = new_keys;
    toy_run(toy, onset + WHOLE_HOUR);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 0);
    toy_check(toy, toy_count_rule(toy, BALANCE_R_MOVING_LOAD) == 1);
    toy_check(toy, toy_count(toy, BALANCE_ISOLATE) == 0);
    print_counts(toy);
}

static void scenario_merge_back(struct toy *toy)
{
    double onset = toy->t + 60, gone = onset + 1800;
    add_base(toy, 260);
    struct toy_source *s = add_on(toy, 0, step, 0, 1200);
    s->from = onset;
    s->until = gone;
    toy->facts.min_shards = 3;
    toy_run(toy, onset + 4 * WHOLE_HOUR);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 1);
    toy_check(toy, toy_count(toy, BALANCE_MERGE) == 1);
    double after = toy_time(toy, BALANCE_MERGE, 0) - gone;
    toy_check(toy, after >= WHOLE_HOUR && after <= WHOLE_HOUR + 180);
    toy_check(toy, toy_shard_count(toy) == 3);
    print_counts(toy);
}

/* Six hours of load that comes and goes, slower and faster than the merge's hour. */
static void scenario_no_thrash(struct toy *toy)
{
    static const double periods[] = {600, 1800, 7200, 18000};
    add_base(toy, 100);
    struct toy_source *s = add_on(toy, 0, wave, 800, 700);
    s->from = toy->t;
    s->until = periods[toy->seed % 4];
    toy->noise = 0.05;
    toy->facts.min_shards = 2;
    toy_run(toy, toy->t + 6 * WHOLE_HOUR);
    size_t splits = toy_count(toy, BALANCE_SPLIT), merges = toy_count(toy, BALANCE_MERGE);
    toy_check(toy, splits >= 1 && splits <= 2);
    toy_check(toy, merges <= 1);
    for (size_t i = 0; i < merges; i++) /* never within an hour of a split, in either order */
        for (size_t j = 0; j < splits; j++)
            toy_check(toy,
                      fabs(toy_time(toy, BALANCE_MERGE, i) - toy_time(toy, BALANCE_SPLIT, j)) > WHOLE_HOUR);
    print_counts(toy);
}

static void scenario_rebalance(struct toy *toy)
{
    double onset = toy->t + 60 + toy_unit(toy);
    toy->policy.rebalance = AUTO_ON;
    toy->facts.min_shards = 3;
    add_base(toy, 50);
    add_on(toy, 1, step, 0, 1200)->from = onset;
    toy_run(toy, onset + WHOLE_HOUR);
    toy_check(toy, toy_count(toy, BALANCE_SPLIT) == 0);
    toy_check(toy, toy_count(toy, BALANCE_REBALANCE) == 1);
    toy_check(toy, toy_time(toy, BALANCE_REBALANCE, 0) - onset <= 12);
    toy_check(toy, toy_greatest_load(toy) < 800);
    toy_check(toy, toy_shard_count(toy) == 3);
    print_counts(toy);
}

static const struct {
    const char *name;
    size_t shards;
    void (*run)(struct toy *toy);
} scenarios[] = {
    {"step", 3, scenario_step},
    {"ramp", 3, scenario_ramp},
    {"flapping", 3, scenario_flapping},
    {"hot key", 3, scenario_hot_key},
    {"uniform", 4, scenario_uniform},
    {"vanish while sampled", 3, scenario_vanish_sampling},
    {"vanish while split", 3, scenario_vanish_split},
    {"ten hot at once", 24, scenario_ten_hot},
    {"ten hot, two at a time", 24, scenario_ten_hot_two_at_a_time},
    {"just below", 3, scenario_just_below},
    {"append", 3, scenario_append},
    {"merge back", 3, scenario_merge_back},
    {"no thrash in 6 h", 2, scenario_no_thrash},
    {"rebalance", 3, scenario_rebalance},
};

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, last = argc > 1 ? first : 5;
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        for (uint64_t seed = first; seed <= last; seed++) {
            struct toy *toy = toy_new(scenarios[i].name, seed, scenarios[i].shards);
            scenarios[i].run(toy);
            toy_free(toy);
        }
    return 0;
}
