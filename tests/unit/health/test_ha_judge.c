/* Is the primary gone: each rule, and the facts on both sides of its limit. */
#include "health/ha_world.h"

#define SILENT(ns) silence(s, ns)

static void well(struct ha_shard *s)
{
    (void)s;
}
static void maintenance(struct ha_shard *s)
{
    SILENT(60 * S);
    s->maintenance = true;
}
static void under_way(struct ha_shard *s)
{
    SILENT(60 * S);
    s->record.term = 2;
}
static void suspect(struct ha_shard *s)
{
    SILENT(3 * S - 1);
}
static void silent(struct ha_shard *s)
{
    SILENT(3 * S);
}
static void only_we(struct ha_shard *s)
{
    SILENT(60 * S);
    s->instances[2].receives = true;
    s->instances[2].received_ns = NOW - 2 * S + 1;
}
static void connected_but_quiet(struct ha_shard *s)
{
    SILENT(60 * S);
    s->instances[2].receives = true; /* a link that swallows everything looks so */
    s->instances[2].received_ns = NOW - 2 * S;
}
static void probe_works(struct ha_shard *s)
{
    SILENT(60 * S);
    s->instances[0].reached_ns = NOW - S;
}
static void agent_only(struct ha_shard *s)
{
    SILENT(60 * S);
    s->instances[0].heard_ns = NOW - S;
}
static void nobody_listens(struct ha_shard *s)
{
    SILENT(S / 10);
    s->instances[0].closed = s->instances[0].refused = true;
}
static void agent_died_alone(struct ha_shard *s)
{
    SILENT(S / 10);
    s->instances[0].closed = true; /* and the server is not known to refuse */
}
static void nobody_listens_to_us(struct ha_shard *s)
{
    s->instances[0].closed = s->instances[0].refused = true;
}
static void stopped_and_ended(struct ha_shard *s) /* a frozen agent, whose watchdog has ended the server */
{
    SILENT(S / 10);
    s->instances[0].heard_ns = NOW - 3 * S / 2;
    s->instances[0].refused = true;
}
static void refused_and_heard(struct ha_shard *s)
{
    SILENT(S / 10);
    s->instances[0].heard_ns = NOW - 3 * S / 2 + 1;
    s->instances[0].refused = true;
}
static void refused_and_received(struct ha_shard *s)
{
    s->instances[0].heard_ns = NOW - 3 * S / 2;
    s->instances[0].refused = true;
}
static void we_stood_still(struct ha_shard *s)
{
    SILENT(60 * S);
    s->awake_ns = NOW - S;
}
static void we_stood_still_long_ago(struct ha_shard *s)
{
    SILENT(60 * S);
    s->awake_ns = NOW - 3 * S;
}
static void we_stood_still_and_it_refuses(struct ha_shard *s)
{
    stopped_and_ended(s);
    s->instances[0].reached_ns = NOW - 60 * S;
    s->awake_ns = NOW - 3 * S / 2 + 1;
}
static void pod_gone(struct ha_shard *s)
{
    SILENT(S / 10);
    s->instances[0].pod = HA_POD_GONE;
}
static void pod_gone_they_say(struct ha_shard *s)
{
    s->instances[0].pod = HA_POD_GONE;
}
static void standbys_pod_gone(struct ha_shard *s)
{
    pod_gone(s);
    s->instances[2].pod = HA_POD_GONE; /* heard a moment ago, and not there any more */
}
static void ended(struct ha_shard *s, uint64_t ago, bool gave_up)
{
    s->instances[0].server = HA_SERVER_DOWN;
    s->instances[0].ended_ns = NOW - ago;
    s->instances[0].gave_up = gave_up;
}
static void restarting(struct ha_shard *s)
{
    ended(s, 3 * S - 1, false);
}
static void ended_with_its_pod(struct ha_shard *s)
{
    ended(s, S / 10, false);
    pod_gone(s);
}
static void not_returned(struct ha_shard *s)
{
    ended(s, 3 * S, false);
}
static void gave_up(struct ha_shard *s)
{
    ended(s, S / 10, true);
}
static void ended_and_silent(struct ha_shard *s)
{
    ended(s, 4 * S, false);
    SILENT(S / 2); /* heard still, and the server is down */
}
static void ended_while_we_stood_still(struct ha_shard *s)
{
    ended(s, 60 * S, false); /* it may be back: its word waits in our socket */
    s->awake_ns = NOW - S;
}
static void one_unheard(struct ha_shard *s)
{
    SILENT(60 * S);
    s->instances[2].heard_ns = NOW - 3 * S;
}
static void one_unheard_of_one(struct ha_shard *s)
{
    one_unheard(s);
    s->record.configs[0].members = B; /* c had left the sync set: b alone has it all */
}
static void two_configs(struct ha_shard *s)
{
    one_unheard_of_one(s);
    s->record.configs[1] = s->record.configs[0];
    s->record.configs[0].members = B | C;
    s->record.count = 2;
}
static void two_members_help(struct ha_shard *s)
{
    one_unheard(s);
    s->record.configs[0].k = 2;
}
static void no_failover(struct ha_shard *s)
{
    SILENT(60 * S);
    s->instances[1].no_failover = true;
    s->instances[2].delayed = true;
}
static void alone(struct ha_shard *s)
{
    SILENT(60 * S);
    s->record.configs[0].members = 0;
    s->record.configs[0].k = 0;
}
static void alone_before(struct ha_shard *s)
{
    SILENT(60 * S);
    s->record.configs[1] = s->record.configs[0];
    s->record.configs[1].epoch++;
    s->record.configs[0].members =
        0; /* b is in the set again, and what a acknowledged alone is not settled */
    s->record.configs[0].k = 0;
    s->record.count = 2;
}
static void async(struct ha_shard *s)
{
    SILENT(60 * S);
    s->policy.durability = HA_ASYNC;
    ha_record_init(&s->record, &s->policy, 0, B | C);
}
static void async_one_unheard(struct ha_shard *s)
{
    async(s);
    s->instances[2].heard_ns = NOW - 3 * S;
}

static const struct {
    const char *name;
    unsigned instances;
    void (*change)(struct ha_shard *s);
    int rule;
} cases[] = {
    {"all is well", 3, well, HA_F_WELL},
    {"the probe still works", 3, probe_works, HA_F_WELL},
    {"the agent still speaks", 3, agent_only, HA_F_WELL},
    {"maintenance", 3, maintenance, HA_F_MAINTENANCE},
    {"a term was claimed", 3, under_way, HA_F_UNDER_WAY},
    {"silent, not long enough", 3, suspect, HA_F_SUSPECT},
    {"silent", 3, silent, HA_F_LOST},
    {"two, silent", 2, silent, HA_F_LOST},
    {"only we lost sight of it", 3, only_we, HA_F_STILL_RECEIVED},
    {"connected, but nothing comes", 3, connected_but_quiet, HA_F_LOST},
    {"agent and server refuse", 3, nobody_listens, HA_F_GONE},
    {"agent and server refuse us only", 3, nobody_listens_to_us, HA_F_STILL_RECEIVED},
    {"its agent is gone, its server unknown", 3, agent_died_alone, HA_F_SUSPECT},
    {"its server refuses, its agent is silent", 3, stopped_and_ended, HA_F_GONE},
    {"its server refuses, its agent spoke lately", 3, refused_and_heard, HA_F_WELL},
    {"its server refuses us only", 3, refused_and_received, HA_F_STILL_RECEIVED},
    {"we stood still until now", 3, we_stood_still, HA_F_WELL},
    {"we stood still, and it is silent since", 3, we_stood_still_long_ago, HA_F_LOST},
    {"we stood still, and its server refuses", 3, we_stood_still_and_it_refuses, HA_F_WELL},
    {"we stood still when its server ended", 3, ended_while_we_stood_still, HA_F_RESTARTING},
    {"its pod is gone", 3, pod_gone, HA_F_GONE},
    {"its pod is gone, they say", 3, pod_gone_they_say, HA_F_STILL_RECEIVED},
    {"its pod is gone, and a standby's", 3, standbys_pod_gone, HA_F_UNHEARD},
    {"the server ended, and its pod with it", 3, ended_with_its_pod, HA_F_GONE},
    {"the server ended", 3, restarting, HA_F_RESTARTING},
    {"the server ended and does not return", 3, not_returned, HA_F_NOT_RETURNED},
    {"the agent gave up", 3, gave_up, HA_F_NOT_RETURNED},
    {"the server ended, the agent spoke a moment ago", 3, ended_and_silent, HA_F_NOT_RETURNED},
    {"one standby is not heard", 3, one_unheard, HA_F_UNHEARD},
    {"one that left the sync set is not heard", 3, one_unheard_of_one, HA_F_LOST},
    {"it left the set, and that is not settled", 3, two_configs, HA_F_UNHEARD},
    {"one of two that help is not heard", 3, two_members_help, HA_F_LOST},
    {"nobody may be promoted", 3, no_failover, HA_F_NOBODY},
    {"it went on alone", 2, alone, HA_F_ALONE},
    {"it had gone on alone", 3, alone_before, HA_F_ALONE},
    {"async", 3, async, HA_F_LOST},
    {"async, one is not heard", 3, async_one_unheard, HA_F_UNHEARD},
};

static void test_rules(void **state)
{
    (void)state;
    bool met[HA_F_COUNT] = {false};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ha_shard s = calm(cases[i].instances);
        struct ha_verdict v;
        cases[i].change(&s);
        ha_judge(&s, NOW, &v);
        assert_sentence(cases[i].name, v.rule, cases[i].rule, v.sentence);
        assert_int_equal(v.fail_over, v.rule >= HA_F_NOT_RETURNED && v.rule <= HA_F_GONE);
        met[v.rule] = true;
    }
    for (int i = HA_F_WELL; i <= HA_F_GONE; i++)
        if (!met[i])
            fail_msg("no case for rule %s", ha_rule_name(i));
}

/* Whatever else is true: as long as somebody who is heard receives, nothing is done. */
static void test_never_alone(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 64; bits++) {
        struct ha_shard s = calm(3);
        struct ha_verdict v;
        silence(&s, (bits & 1) != 0 ? 600 * S : S / 10);
        s.instances[0].closed = (bits & 2) != 0;
        s.instances[0].refused = (bits & 4) != 0;
        s.instances[0].pod = (bits & 8) != 0 ? HA_POD_GONE : HA_POD_RUNS;
        s.instances[2].heard_ns = (bits & 16) != 0 ? NOW - 9 * S : NOW;
        s.record.configs[0].k = (bits & 32) != 0 ? 2 : 1;
        s.instances[1].receives = true;
        s.instances[1].received_ns = NOW - S;
        ha_judge(&s, NOW, &v);
        assert_false(v.fail_over);
    }
}

/* No number of instances would be enough, so none is named. */
static void test_who_was_alone(void **state)
{
    struct ha_shard s = calm(3);
    struct ha_verdict v;
    (void)state;
    alone_before(&s);
    s.record.configs[1].primary = 0;
    ha_judge(&s, NOW, &v);
    assert_non_null(strstr(v.sentence, ": a went on without a standby"));
    assert_null(strstr(v.sentence, " 0 "));
}

/* Its primary is there: who is missing is named, after a moment, and only if a commit waits for them. */
static void test_waits(void **state)
{
    struct ha_shard s = calm(3);
    struct ha_verdict v;
    (void)state;
    ha_waits(&s, NOW, &v);
    assert_int_equal(v.rule, 0);
    s.instances[1].streams = false;
    s.instances[1].streams_ns = NOW - 60 * S;
    ha_waits(&s, NOW, &v);
    assert_int_equal(v.rule, 0); /* c is enough */
    s.instances[2].streams = false;
    s.instances[2].streams_ns = NOW - 2 * S + 1;
    ha_waits(&s, NOW, &v);
    assert_int_equal(v.rule, 0);
    s.instances[2].streams_ns = NOW - 2 * S;
    s.instances[2].heard_ns = NOW - 3 * S;
    ha_waits(&s, NOW, &v);
    assert_sentence("both are missing", v.rule, HA_F_UNFOLLOWED, v.sentence);
    assert_false(v.fail_over);
    assert_non_null(strstr(v.sentence, "0 of the 1 standbys"));
    assert_non_null(strstr(v.sentence, "b is heard and does not stream, c is not heard"));
    s.count = 4;
    s.instances[3] = (struct ha_instance){.name = "d", .heard_ns = NOW, .streams = true, .streams_ns = NOW};
    ha_waits(&s, NOW, &v);
    assert_sentence("no commit waits for d, which streams", v.rule, HA_F_UNFOLLOWED, v.sentence);
    s.instances[3].streams = false;
    s.instances[3].streams_ns = NOW - 60 * S;
    ha_waits(&s, NOW, &v);
    assert_null(strstr(v.sentence, "d is")); /* and nobody has to bring it back for them */
    s.record.configs[0].k = 0;
    ha_waits(&s, NOW, &v);
    assert_int_equal(v.rule, 0); /* it waits for nobody */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waits),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_never_alone),
        cmocka_unit_test(test_who_was_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
