/* Whom a standby follows that was asked to follow another one: each hindrance, on both sides of its limit. */
#include "health/ha_world.h"

#define D_AS 3 /* d, which is to follow b */

static struct ha_shard cascade(void)
{
    struct ha_shard s = calm(4);
    struct ha_instance *d = &s.instances[D_AS];
    d->follows = 2;
    d->no_sync = d->no_failover = true;
    d->streams = false;
    s.record.configs[0].members = B | C;
    for (unsigned i = 0; i < s.count; i++)
        s.instances[i].streams_ns = NOW - 60 * S;
    return s;
}

static void well(struct ha_shard *s)
{
    (void)s;
}
static void follows_already(struct ha_shard *s)
{
    s->instances[D_AS].upstream = 2;
}
static void back_not_long_enough(struct ha_shard *s)
{
    s->instances[1].streams_ns = NOW - 3 * S + 1;
}
static void back(struct ha_shard *s)
{
    s->instances[1].streams_ns = NOW - 3 * S;
}
static void away(struct ha_shard *s)
{
    s->instances[1].streams = false;
    s->instances[1].streams_ns = NOW - 1;
}
static void followed_and_away_a_moment(struct ha_shard *s)
{
    follows_already(s);
    s->instances[1].streams = false;
    s->instances[1].streams_ns = NOW - 2 * S + 1;
}
static void followed_and_away(struct ha_shard *s)
{
    followed_and_away_a_moment(s);
    s->instances[1].streams_ns = NOW - 2 * S;
}
static void unheard(struct ha_shard *s)
{
    follows_already(s);
    s->instances[1].heard_ns = NOW - 3 * S;
}
static void just_heard(struct ha_shard *s)
{
    follows_already(s);
    s->instances[1].heard_ns = NOW - 3 * S + 1;
}
static void closed(struct ha_shard *s)
{
    follows_already(s);
    s->instances[1].closed = true;
}
static void pod_gone(struct ha_shard *s)
{
    follows_already(s);
    s->instances[1].pod = HA_POD_GONE;
}
static void restarts(struct ha_shard *s)
{
    follows_already(s);
    s->instances[1].server = HA_SERVER_STARTING;
}
static void follows_on(struct ha_shard *s)
{
    s->instances[1].follows = 3;
}
static void counts(struct ha_shard *s)
{
    s->record.configs[0].members |= HA_BIT(D_AS);
}
static void unserved(struct ha_shard *s)
{
    s->instances[D_AS].unserved_ns = NOW - 60 * S + 1;
}
static void unserved_long_ago(struct ha_shard *s)
{
    s->instances[D_AS].unserved_ns = NOW - 60 * S;
}
static void promoted(struct ha_shard *s)
{
    s->record.configs[0].primary = 1;
}
static void none_such(struct ha_shard *s)
{
    s->instances[D_AS].follows = 9;
}
static void itself(struct ha_shard *s)
{
    s->instances[D_AS].follows = D_AS + 1;
}
static void not_asked(struct ha_shard *s)
{
    s->instances[D_AS].follows = 0;
}

static const struct {
    const char *name;
    void (*change)(struct ha_shard *s);
    int upstream, rule;
} cases[] = {
    {"it streams", well, 1, HA_F_CASCADE},
    {"it streams, and is followed", follows_already, 1, HA_F_CASCADE},
    {"it is back, not long enough", back_not_long_enough, 0, HA_F_DIRECT},
    {"it is back", back, 1, HA_F_CASCADE},
    {"it is away", away, 0, HA_F_DIRECT},
    {"it is followed, and away for a moment", followed_and_away_a_moment, 1, HA_F_CASCADE},
    {"it is followed, and away", followed_and_away, 0, HA_F_DIRECT},
    {"it is not heard", unheard, 0, HA_F_DIRECT},
    {"it was just heard", just_heard, 1, HA_F_CASCADE},
    {"its agent is gone", closed, 0, HA_F_DIRECT},
    {"its pod is gone", pod_gone, 0, HA_F_DIRECT},
    {"its server restarts", restarts, 0, HA_F_DIRECT},
    {"it is to follow another one itself", follows_on, 0, HA_F_DIRECT},
    {"commits rely on the one below", counts, 0, HA_F_DIRECT},
    {"it did not serve it", unserved, 0, HA_F_DIRECT},
    {"it did not serve it, long ago", unserved_long_ago, 1, HA_F_CASCADE},
    {"it was promoted", promoted, 1, 0},
    {"there is no such instance", none_such, 0, 0},
    {"itself", itself, 0, 0},
    {"it was not asked to", not_asked, 0, 0},
};

static void test_upstream(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ha_shard s = cascade();
        struct ha_upstream u;
        cases[i].change(&s);
        ha_upstream(&s, D_AS, NOW, &u);
        if (u.instance != cases[i].upstream)
            fail_msg("%s: follows %d", cases[i].name, u.instance);
        if (cases[i].rule != 0)
            assert_sentence(cases[i].name, u.rule, cases[i].rule, u.sentence);
        assert_int_equal(u.rule, cases[i].rule);
    }
}

/* Whatever the others are: never itself, never one that is not there, the primary nobody. */
static void test_always_somebody(void **state)
{
    (void)state;
    for (int follows = 0; follows < 10; follows++) {
        struct ha_shard s = cascade();
        struct ha_upstream u;
        s.instances[D_AS].follows = s.instances[0].follows = follows;
        ha_upstream(&s, D_AS, NOW, &u);
        assert_in_range(u.instance, 0, 2);
        ha_upstream(&s, 0, NOW, &u);
        assert_int_equal(u.instance, 0);
        assert_int_equal(u.rule, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_upstream),
        cmocka_unit_test(test_always_somebody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
