/* The lease without a wire, and many candidates against a simulated API server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "k8s/election.h"

#define S  ENV_NS_PER_S
#define MS ENV_NS_PER_MS

struct fixture {
    struct election *e;
    struct election_step step;
    uint64_t now;
};

static void fixture_new(struct fixture *f)
{
    const struct election_options o = {env_system(), "lead", "herd", "me", "before_me\nlast_me\n"};
    memset(f, 0, sizeof *f);
    f->e = election_new(&o);
    f->now = 100 * S;
    election_start(f->e, f->now, &f->step);
    assert_true(f->step.send && f->step.request.method == ELECTION_GET);
}

static void answer(struct fixture *f, int status, const char *body)
{
    election_answer(f->e, f->now, status, body, strlen(body), &f->step);
}

/* A record as the server returns it. */
static const char *lease(const char *holder, int duration, const char *version, const char *renewed)
{
    static char text[512];
    snprintf(
        text, sizeof text,
        "{\"metadata\":{\"resourceVersion\":\"%s\"},\"spec\":{\"holderIdentity\":\"%s\","
        "\"leaseDurationSeconds\":%d,\"renewTime\":\"%s\",\"acquireTime\":\"2026-01-01T00:00:00.000000Z\","
        "\"leaseTransitions\":3}}",
        version, holder, duration, renewed);
    return text;
}

static void wait(struct fixture *f)
{
    assert_true(f->step.deadline_ns > f->now);
    f->now = f->step.deadline_ns;
    election_tick(f->e, f->now, &f->step);
}

static void to_leader(struct fixture *f)
{
    fixture_new(f);
    answer(f, 404, "");
    assert_int_equal(f->step.request.method, ELECTION_CREATE);
    assert_non_null(strstr(f->step.request.body, "\"holderIdentity\":\"unclaimed\""));
    uint64_t start = f->now;
    answer(f, 201, lease("unclaimed", 15, "1", "t0"));
    while (!f->step.send) { /* a leader whose lease was deleted has its time */
        wait(f);
        assert_int_equal(f->step.request.method, ELECTION_GET);
        answer(f, 200, lease("unclaimed", 15, "1", "t0"));
    }
    assert_true(f->now - start >= 15 * S && f->now - start < 20 * S);
    assert_int_equal(f->step.request.method, ELECTION_UPDATE);
    answer(f, 201, lease("me", 15, "1", "t1"));
    assert_true(f->step.won && election_leads(f->e, f->now));
}

static void test_an_absent_lease_is_created_and_renewed(void **state)
{
    struct fixture f;
    (void)state;
    to_leader(&f);
    assert_int_equal(election_valid_until(f.e), f.now + 10 * S);
    for (int i = 0; i < 10; i++) {
        uint64_t before = f.now;
        wait(&f);
        assert_int_equal(f.now, before + 2 * S);
        assert_int_equal(f.step.request.method, ELECTION_UPDATE);
        assert_non_null(strstr(f.step.request.body, "\"resourceVersion\":\"1\""));
        assert_non_null(strstr(f.step.request.body, "\"acquireTime\":\"2026-01-01T00:00:00.000000Z\""));
        answer(&f, 200, lease("me", 15, "1", "t2"));
        assert_false(f.step.won || f.step.lost);
    }
    election_free(f.e);
}

static void test_K24_the_duration_in_the_record_counts_from_when_it_was_seen(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f);
    uint64_t seen = f.now;
    answer(&f, 200, lease("other", 40, "5", "2020-01-01T00:00:00.000000Z")); /* long past, by its own words */
    while (f.now < seen + 40 * S) {
        assert_false(f.step.send);
        wait(&f);
        assert_int_equal(f.step.request.method, ELECTION_GET);
        answer(&f, 200, lease("other", 40, "5", "2020-01-01T00:00:00.000000Z"));
    }
    assert_int_equal(f.step.request.method, ELECTION_UPDATE);
    assert_non_null(strstr(f.step.request.body, "\"leaseTransitions\":4"));
    answer(&f, 409, "{}");
    assert_false(f.step.won);
    wait(&f);
    answer(&f, 200, lease("other", 40, "6", "later")); /* it changed: the full time again */
    assert_false(f.step.send);
    election_free(f.e);
}

static void test_a_free_lease_is_taken_at_once(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f);
    answer(&f, 200, lease("", 1, "5", "t"));
    assert_int_equal(f.step.request.method, ELECTION_UPDATE);
    answer(&f, 200, lease("me", 15, "6", "t"));
    assert_true(f.step.won);
    election_free(f.e);
}

/* The processes before us in our state directory have ended: what one of them holds need not run out. */
static void test_the_lease_of_a_dead_process_is_taken_at_once(void **state)
{
    static const struct {
        const char *holder;
        bool taken;
    } cases[] = {{"before_me", true}, {"last_me", true},   {"last_m", false}, {"ast_me", false},
                 {"other", false},    {"last_me2", false}, {"", false},       {"before_me\\nlast_me", false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        fixture_new(&f);
        answer(&f, 200, lease(cases[i].holder, 15, "5", "t"));
        if (f.step.send != cases[i].taken)
            fail_msg("%s", cases[i].holder);
        if (cases[i].taken) {
            assert_int_equal(f.step.request.method, ELECTION_UPDATE);
            assert_non_null(strstr(f.step.request.body, "\"leaseTransitions\":4"));
        }
        election_free(f.e);
    }
}

static void test_K23_without_renewals_leading_ends_before_the_lease(void **state)
{
    struct fixture f;
    (void)state;
    to_leader(&f);
    uint64_t renewed = f.now;
    while (!f.step.lost) {
        assert_true(election_leads(f.e, f.now));
        if (f.step.send)
            answer(&f, 0, "");
        else
            wait(&f);
        assert_true(f.now <= renewed + 10 * S);
    }
    assert_false(election_leads(f.e, f.now));
    assert_int_equal(f.now, renewed + 10 * S);
    election_free(f.e);
}

static void test_K23_a_conflict_is_looked_into(void **state)
{
    struct fixture f;
    (void)state;
    to_leader(&f);
    wait(&f);
    answer(&f, 409, "{}");
    assert_false(f.step.lost);
    wait(&f);
    assert_int_equal(f.step.request.method, ELECTION_GET);
    answer(&f, 200, lease("me", 15, "8", "t8"));
    assert_int_equal(f.step.request.method, ELECTION_UPDATE);
    assert_non_null(strstr(f.step.request.body, "\"resourceVersion\":\"8\""));
    answer(&f, 409, "{}");
    wait(&f);
    answer(&f, 200, lease("other", 15, "9", "t9"));
    assert_true(f.step.lost);
    assert_false(election_leads(f.e, f.now));
    election_free(f.e);
}

static void test_K23_a_paused_process_does_not_lead_when_it_wakes(void **state)
{
    struct fixture f;
    (void)state;
    to_leader(&f);
    f.now += 11 * S;
    assert_false(election_leads(f.e, f.now)); /* before any event of ours is handled */
    election_tick(f.e, f.now, &f.step);
    assert_true(f.step.lost);
    election_free(f.e);
}

static void test_a_renewal_counts_from_when_it_was_sent(void **state)
{
    struct fixture f;
    (void)state;
    to_leader(&f);
    wait(&f);
    uint64_t sent = f.now;
    f.now += 4 * S;
    answer(&f, 200, lease("me", 15, "2", "t2"));
    assert_int_equal(election_valid_until(f.e), sent + 10 * S);
    election_free(f.e);
}

static void test_release_frees_the_lease(void **state)
{
    struct fixture f;
    (void)state;
    to_leader(&f);
    election_release(f.e, f.now, &f.step);
    assert_true(f.step.lost && f.step.send);
    assert_false(election_leads(f.e, f.now));
    assert_non_null(strstr(f.step.request.body, "\"holderIdentity\":\"\",\"leaseDurationSeconds\":1"));
    answer(&f, 200, lease("", 1, "3", "t"));
    assert_int_equal(f.step.deadline_ns, 0);
    election_free(f.e);
}

static void test_answers_that_are_no_leases(void **state)
{
    static const char *const bodies[] = {"", "{", "[]", "{\"metadata\":{}}", "<html>"};
    struct fixture f;
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        fixture_new(&f);
        answer(&f, 200, bodies[i]);
        assert_false(f.step.send || f.step.won);
        election_free(f.e);
    }
}

/* ---- many candidates, a server that loses and delays, processes that stop ---- */

enum { CANDIDATES = 4 };

struct server {
    bool exists;
    int version, transitions;
    long long duration;
    char holder[16], renewed[80];
};

struct candidate {
    struct election *e;
    struct election_step step;
    uint64_t paused_until, answer_at;
    int answer_status;
    char answer_body[512];
};

static unsigned long long seed;

static unsigned chance(unsigned below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(seed >> 33) % below;
}

static void seeded_random(struct env *env, void *buf, size_t n)
{
    (void)env;
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)buf)[i] = (unsigned char)chance(256);
}

/* Each look at it is up to an hour before or after the one before. */
static int64_t jumping_wall(struct env *env)
{
    (void)env;
    return 1900000000000000 + ((int64_t)chance(7200) - 3600) * 1000000;
}

static void field(const char *body, const char *name, char *out, size_t size)
{
    const char *at = strstr(body, name);
    out[0] = '\0';
    if (at != NULL)
        snprintf(out, size, "%.*s", (int)strcspn(at + strlen(name), "\",}"), at + strlen(name));
}

static void server_body(const struct server *s, char *out)
{
    snprintf(out, 512,
             "{\"metadata\":{\"resourceVersion\":\"%d\"},\"spec\":{\"holderIdentity\":\"%s\","
             "\"leaseDurationSeconds\":%lld,\"renewTime\":\"%s\",\"leaseTransitions\":%d}}",
             s->version, s->holder, s->duration, s->renewed, s->transitions);
}

static int serve(struct server *s, const struct election_request *q, char *out)
{
    char text[64];
    out[0] = '\0';
    if (q->method == ELECTION_GET) {
        if (s->exists)
            server_body(s, out);
        return s->exists ? 200 : 404;
    }
    field(q->body, "\"resourceVersion\":\"", text, sizeof text);
    if (s->exists ? q->method == ELECTION_CREATE || atoi(text) != s->version : q->method == ELECTION_UPDATE)
        return s->exists ? 409 : 404;
    s->exists = true;
    s->version++;
    field(q->body, "\"holderIdentity\":\"", s->holder, sizeof s->holder);
    field(q->body, "\"renewTime\":\"", text, 40);
    snprintf(s->renewed, sizeof s->renewed, "%s-%d", text, s->version);
    field(q->body, "\"leaseDurationSeconds\":", text, sizeof text);
    s->duration = atoll(text);
    server_body(s, out);
    return 200;
}

/* A request: lost on the way there or back, or served now or later. */
static void send(struct candidate *c, struct server *s, uint64_t now)
{
    unsigned fate = chance(20);
    c->answer_at = now + chance(fate == 0 ? 8000 : 30) * MS;
    c->answer_status = 0;
    if (fate == 1)
        return; /* never arrived */
    c->answer_status = serve(s, &c->step.request, c->answer_body);
    if (fate == 2)
        c->answer_status = 0; /* its answer was lost */
}

static void candidate_turn(struct candidate *c, struct server *s, uint64_t now)
{
    if (now < c->paused_until)
        return;
    if (c->answer_at != 0 && now >= c->answer_at) {
        c->answer_at = 0;
        election_answer(c->e, now, c->answer_status, c->answer_body, strlen(c->answer_body), &c->step);
    } else if (c->step.deadline_ns != 0 && now >= c->step.deadline_ns) {
        election_tick(c->e, now, &c->step);
    } else {
        return;
    }
    if (c->step.send)
        send(c, s, now);
}

static void simulate(unsigned long long with_seed, unsigned *ret_changes)
{
    struct env env = *env_system();
    struct server server = {0};
    struct candidate candidates[CANDIDATES] = {0};
    int leader_before = -1;
    env.random = seeded_random;
    env.wall_us = jumping_wall;
    seed = with_seed;
    uint64_t now = 1000 * S;
    for (int i = 0; i < CANDIDATES; i++) {
        char name[8];
        snprintf(name, sizeof name, "c%d", i);
        const struct election_options o = {&env, "lead", "herd", name, NULL};
        candidates[i].e = election_new(&o);
        election_start(candidates[i].e, now, &candidates[i].step);
        send(&candidates[i], &server, now);
    }
    for (; now < 2200 * S; now += 5 * MS) {
        int leader = -1;
        for (int i = 0; i < CANDIDATES; i++) {
            if (chance(6000) == 0)
                candidates[i].paused_until = now + chance(40000) * MS;
            candidate_turn(&candidates[i], &server, now);
        }
        for (int i = 0; i < CANDIDATES; i++) { /* a paused one that would write when it wakes counts, too */
            if (election_leads(candidates[i].e, now)) {
                if (leader >= 0)
                    fail_msg("seed %llu: c%d and c%d lead at %llu ms", with_seed, leader, i,
                             (unsigned long long)(now / MS));
                leader = i;
            }
        }
        if (leader >= 0 && leader != leader_before) {
            leader_before = leader;
            (*ret_changes)++;
        }
        if (chance(40000) == 0)
            server.exists = false; /* somebody deletes it */
    }
    for (int i = 0; i < CANDIDATES; i++)
        election_free(candidates[i].e);
}

static void test_K23_never_two_leaders_whatever_the_clocks_say(void **state)
{
    unsigned changes = 0;
    const char *count = getenv("SHARDHERD_SEEDS");
    unsigned long long first = (unsigned long long)env_system()->wall_us(env_system());
    (void)state;
    for (int i = 0; i < (count != NULL ? atoi(count) : 20); i++)
        simulate(first + (unsigned long long)i, &changes);
    print_message("seeds from %llu, %u changes of leader\n", first, changes);
    assert_true(changes > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_absent_lease_is_created_and_renewed),
        cmocka_unit_test(test_K24_the_duration_in_the_record_counts_from_when_it_was_seen),
        cmocka_unit_test(test_a_free_lease_is_taken_at_once),
        cmocka_unit_test(test_the_lease_of_a_dead_process_is_taken_at_once),
        cmocka_unit_test(test_K23_without_renewals_leading_ends_before_the_lease),
        cmocka_unit_test(test_K23_a_conflict_is_looked_into),
        cmocka_unit_test(test_K23_a_paused_process_does_not_lead_when_it_wakes),
        cmocka_unit_test(test_a_renewal_counts_from_when_it_was_sent),
        cmocka_unit_test(test_release_frees_the_lease),
        cmocka_unit_test(test_answers_that_are_no_leases),
        cmocka_unit_test(test_K23_never_two_leaders_whatever_the_clocks_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
