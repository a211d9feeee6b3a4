/* Records, quorums, and whom to promote. */
#include "health/ha_world.h"

static void confirm(struct ha_shard *s, int i, uint64_t term, uint64_t wal_term, uint64_t lsn)
{
    s->instances[i].confirmed = (struct ha_confirmation){
        .term = term, .position = {.term = wal_term, .timeline = (uint32_t)wal_term, .lsn = lsn}};
}

/* ---- quorums ---- */

/* Every set that satisfies a config meets every set that could have acknowledged under it. */
static void test_quorums_meet(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 5; n++)
        for (unsigned k = 1; k <= n; k++) {
            ha_set members = (HA_BIT(n + 1) - 1) & ~A;
            struct ha_config c = {.primary = 0, .members = members, .k = k};
            for (ha_set confirmed = 0; confirmed < HA_BIT(n + 1); confirmed++)
                for (ha_set acked = 0; acked < HA_BIT(n + 1); acked++) {
                    bool could = (acked & A) != 0 && ha_size(acked & members) >= k;
                    if (could && ha_satisfied(&c, confirmed))
                        assert_true((acked & confirmed) != 0);
                }
            assert_int_equal(ha_needed(&c), n - k + 1);
        }
}

static struct ha_record record_of(unsigned count, const struct ha_config *configs)
{
    struct ha_record r = {.term = 9, .epoch = 9, .count = count};
    memcpy(r.configs, configs, count * sizeof *configs);
    return r;
}

/* Dropping changes nothing of what satisfies the record. */
static void test_prune(void **state)
{
    static const struct {
        const char *name;
        unsigned count, left;
        struct ha_config configs[3];
    } cases[] = {
        {"the same twice",
         2,
         1,
         {{.primary = 0, .members = B, .k = 1}, {.primary = 0, .members = B, .k = 1}}},
        {"a member is added",
         2,
         1,
         {{.primary = 0, .members = B, .k = 1}, {.primary = 0, .members = B | C, .k = 1}}},
        {"a member leaves",
         2,
         2,
         {{.primary = 0, .members = B | C, .k = 1}, {.primary = 0, .members = B, .k = 1}}},
        {"it goes on alone", 2, 1, {{.primary = 0, .members = B, .k = 1}, {.primary = 0}}},
        {"it is not alone any more", 2, 2, {{.primary = 0}, {.primary = 0, .members = B, .k = 1}}},
        {"another primary",
         2,
         2,
         {{.primary = 0, .members = B | C, .k = 1}, {.primary = 1, .members = C, .k = 1}}},
        {"another one, alone", 2, 1, {{.primary = 0, .members = B, .k = 1}, {.primary = 1}}},
        {"and again",
         3,
         2,
         {{.primary = 0, .members = B | C, .k = 1},
          {.primary = 1, .members = C, .k = 1},
          {.primary = 2, .members = B, .k = 1}}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ha_record before = record_of(cases[i].count, cases[i].configs), after = before;
        ha_record_prune(&after);
        for (ha_set set = 0; set < 8; set++)
            assert_int_equal(ha_all_satisfied(&before, set, NULL), ha_all_satisfied(&after, set, NULL));
        if (after.count != cases[i].left)
            fail_msg("%s: %u configs are left", cases[i].name, after.count);
        assert_memory_equal(ha_newest(&after), ha_newest(&before), sizeof(struct ha_config));
    }
}

static void test_defaults(void **state)
{
    (void)state;
    struct ha_shard three = calm(3), two = calm(2), one = calm(1);
    assert_int_equal(three.record.durability, HA_REQUIRED);
    assert_int_equal(two.record.durability, HA_PREFERRED);
    assert_int_equal(three.record.configs[0].k, 1);
    assert_int_equal(three.record.configs[0].members, B | C);
    assert_int_equal(one.record.configs[0].k, 0);
    assert_string_equal(ha_durability_name(HA_REQUIRED), "required");
}

/* ---- the choice ---- */

static void nobody(struct ha_shard *s)
{
    (void)s;
}
static void one_of_two(struct ha_shard *s)
{
    confirm(s, 1, 2, 1, 100);
}
static void old_term(struct ha_shard *s)
{
    one_of_two(s);
    confirm(s, 2, 1, 1, 200);
}
static void both(struct ha_shard *s)
{
    confirm(s, 1, 2, 1, 100);
    confirm(s, 2, 2, 1, 200);
}
static void equal(struct ha_shard *s)
{
    confirm(s, 1, 2, 1, 200);
    confirm(s, 2, 2, 1, 200);
}
static void by_priority(struct ha_shard *s)
{
    equal(s);
    s->instances[2].priority = 5;
}
static void behind_with_priority(struct ha_shard *s)
{
    both(s);
    s->instances[1].priority = 5;
}
static void later_term(struct ha_shard *s) /* of a lower LSN */
{
    confirm(s, 1, 2, 2, 100);
    confirm(s, 2, 2, 1, 200);
}
static void tagged(struct ha_shard *s)
{
    both(s);
    s->instances[2].no_failover = true;
}
static void delayed(struct ha_shard *s)
{
    both(s);
    s->instances[2].delayed = true;
}
static void tagged_equal(struct ha_shard *s)
{
    equal(s);
    s->instances[1].no_failover = true;
}
static void all_tagged(struct ha_shard *s)
{
    tagged(s);
    s->instances[1].no_failover = true;
}
static void old_primary(struct ha_shard *s)
{
    confirm(s, 0, 2, 1, 150);
}
static void excluded_is_ahead(struct ha_shard *s)
{
    both(s);
    s->record.configs[0].members = B;
}
static void only_the_excluded(struct ha_shard *s)
{
    confirm(s, 2, 2, 1, 200);
    s->record.configs[0].members = B;
}
static void unsettled(struct ha_shard *s)
{
    s->record.configs[1] = (struct ha_config){.epoch = 2, .term = 1, .primary = 0, .members = B, .k = 1};
    s->record.count = 2;
    one_of_two(s);
}
static void too_many(struct ha_shard *s)
{
    both(s);
    while (s->record.count < HA_CONFIGS_MAX)
        s->record.configs[s->record.count++] = s->record.configs[0];
}

static const struct {
    const char *name;
    unsigned instances;
    void (*change)(struct ha_shard *s);
    struct ha_ballot ballot;
    int rule, winner, donor;
    ha_set members;
    unsigned k;
} cases[] = {
    {"nobody confirmed", 3, nobody, {2, -1, -1}, HA_F_QUORUM_MISSING, -1, -1, 0, 0},
    {"one of two", 3, one_of_two, {2, -1, -1}, HA_F_QUORUM_MISSING, -1, -1, 0, 0},
    {"the other's is of an older term", 3, old_term, {2, -1, -1}, HA_F_QUORUM_MISSING, -1, -1, 0, 0},
    {"the most advanced", 3, both, {2, -1, -1}, HA_F_PROMOTE, 2, -1, B, 1},
    {"equal: the first", 3, equal, {2, -1, -1}, HA_F_PROMOTE, 1, -1, C, 1},
    {"equal: by priority", 3, by_priority, {2, -1, -1}, HA_F_PROMOTE, 2, -1, B, 1},
    {"equal: the target before the priority", 3, by_priority, {2, 1, -1}, HA_F_PROMOTE, 1, -1, C, 1},
    {"priority is not everything", 3, behind_with_priority, {2, -1, -1}, HA_F_PROMOTE, 2, -1, B, 1},
    {"nor is the target", 3, both, {2, 1, -1}, HA_F_PROMOTE, 2, -1, B, 1},
    {"the later term before the LSN", 3, later_term, {2, -1, -1}, HA_F_PROMOTE, 1, -1, C, 1},
    {"nofailover is ahead", 3, tagged, {2, -1, -1}, HA_F_FETCH, 1, 2, C, 1},
    {"delayed is ahead", 3, delayed, {2, -1, -1}, HA_F_FETCH, 1, 2, C, 1},
    {"nofailover has no more", 3, tagged_equal, {2, -1, -1}, HA_F_PROMOTE, 2, -1, B, 1},
    {"all are nofailover", 3, all_tagged, {2, -1, -1}, HA_F_NO_CANDIDATE, -1, -1, 0, 0},
    {"the old primary alone is enough", 3, old_primary, {2, -1, -1}, HA_F_PROMOTE, 0, -1, B | C, 1},
    {"excluded, though ahead", 3, excluded_is_ahead, {2, -1, -1}, HA_F_PROMOTE, 1, -1, C, 1},
    {"the excluded one does not count", 3, only_the_excluded, {2, -1, -1}, HA_F_QUORUM_MISSING, -1, -1, 0, 0},
    {"the older config counts too", 3, unsettled, {2, -1, -1}, HA_F_QUORUM_MISSING, -1, -1, 0, 0},
    {"too many configs", 3, too_many, {2, -1, -1}, HA_F_TOO_MANY, -1, -1, 0, 0},
    {"two: the other goes on alone", 2, one_of_two, {2, -1, -1}, HA_F_PROMOTE, 1, -1, 0, 0},
    {"loss allowed", 3, one_of_two, {2, -1, 1}, HA_F_DATA_LOSS, 1, -1, A | C, 1},
    {"loss allowed, it did not confirm", 3, one_of_two, {2, -1, 2}, HA_F_NO_CANDIDATE, -1, -1, 0, 0},
};

static void test_choice(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ha_shard s = calm(cases[i].instances);
        struct ha_choice c;
        cases[i].change(&s);
        ha_choose(&s, &cases[i].ballot, &c);
        assert_sentence(cases[i].name, c.rule, cases[i].rule, c.sentence);
        if (c.winner != cases[i].winner || c.donor != cases[i].donor)
            fail_msg("%s: winner %d, donor %d: %s", cases[i].name, c.winner, c.donor, c.sentence);
        if (c.winner >= 0 && (c.config.members != cases[i].members || c.config.k != cases[i].k))
            fail_msg("%s: %u of %x", cases[i].name, c.config.k, c.config.members);
        assert_int_equal(c.lease, c.rule == HA_F_DATA_LOSS);
    }
}

/* Only with time it is certain that nobody acknowledges any more: async, unless the old primary itself
 * confirmed. */
static void test_lease(void **state)
{
    (void)state;
    struct ha_shard s = calm(3);
    struct ha_ballot ballot = {2, -1, -1};
    struct ha_choice c;
    s.policy.durability = HA_ASYNC;
    ha_record_init(&s.record, &s.policy, 0, B | C);
    one_of_two(&s);
    ha_choose(&s, &ballot, &c);
    assert_int_equal(c.rule, HA_F_QUORUM_MISSING); /* c might still receive */
    both(&s);
    ha_choose(&s, &ballot, &c);
    assert_int_equal(c.winner, 2);
    assert_true(c.lease);
    assert_int_equal(c.config.k, 0);
    confirm(&s, 0, 2, 1, 300);
    ha_choose(&s, &ballot, &c);
    assert_int_equal(c.winner, 0);
    assert_false(c.lease);
}

static void test_no_sync(void **state)
{
    (void)state;
    struct ha_shard s = calm(3);
    struct ha_ballot ballot = {2, -1, -1};
    struct ha_choice c;
    both(&s);
    s.instances[1].no_sync = true;
    ha_choose(&s, &ballot, &c);
    assert_int_equal(c.config.members, A); /* required: it waits for a rather than rely on nobody */
    assert_int_equal(c.config.k, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quorums_meet), cmocka_unit_test(test_prune), cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_choice),       cmocka_unit_test(test_lease), cmocka_unit_test(test_no_sync),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
