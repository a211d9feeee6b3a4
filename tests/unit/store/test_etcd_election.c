/*
 * The election by a lease in etcd, in a simulation: several candidates with clocks of their own, requests and
 * answers that are late or lost, processes that pause, leases that lapse. At no time do two lead, and terms
 * grow.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "store/etcd_election.h"

#define MS         ENV_NS_PER_MS
#define CANDIDATES 3
#define MAIL_MAX   256
#define LEASES_MAX 4096

/* ---- etcd ---- */

struct etcd {
    uint64_t lease_end[LEASES_MAX]; /* true time, 0 = gone */
    uint64_t lease_ttl[LEASES_MAX];
    int64_t leases;
    int64_t leader_lease, leader_created;
    int64_t term, term_mod, revision;
};

static void etcd_expire(struct etcd *e, uint64_t now)
{
    for (int64_t i = 1; i <= e->leases; i++)
        if (e->lease_end[i] != 0 && e->lease_end[i] <= now) {
            e->lease_end[i] = 0;
            if (e->leader_lease == i)
                e->leader_lease = e->leader_created = 0;
        }
}

static void etcd_state(const struct etcd *e, struct etcd_election_answer *a)
{
    a->leader_lease = e->leader_lease;
    a->leader_created = e->leader_created;
    a->term = e->term;
    a->term_mod = e->term_mod;
}

static struct etcd_election_answer etcd_do(struct etcd *e, uint64_t now,
                                           const struct etcd_election_request *q)
{
    struct etcd_election_answer a = {.answered = true};
    etcd_expire(e, now);
    bool lives = q->lease > 0 && e->lease_end[q->lease] != 0;
    switch (q->ask) {
    case ETCD_ASK_LOOK:
        etcd_state(e, &a);
        break;
    case ETCD_ASK_GRANT:
        assert_true(e->leases + 1 < LEASES_MAX);
        a.lease = ++e->leases;
        a.ttl_s = 6;
        e->lease_ttl[a.lease] = 6 * ENV_NS_PER_S;
        e->lease_end[a.lease] = now + e->lease_ttl[a.lease];
        break;
    case ETCD_ASK_BEAT:
        if (lives)
            e->lease_end[q->lease] = now + e->lease_ttl[q->lease];
        a.ttl_s = lives ? 6 : 0;
        break;
    case ETCD_ASK_CLAIM:
        if (!lives) {
            a.answered = false; /* "lease not found": an error */
        } else if (e->leader_created == 0 && e->term_mod == q->term_mod) {
            a.succeeded = true;
            e->revision++;
            assert_true(q->term == e->term + 1);
            e->term = q->term;
            a.revision = e->leader_created = e->term_mod = e->revision;
            e->leader_lease = q->lease;
        } else {
            etcd_state(e, &a);
        }
        break;
    case ETCD_ASK_REVOKE:
        if (lives) {
            e->lease_end[q->lease] = 1;
            etcd_expire(e, now);
        }
        break;
    }
    return a;
}

/* ---- the world ---- */

struct mail {
    bool used, at_etcd; /* the request has been executed: the answer is on its way */
    uint64_t due;
    int to;
    unsigned number;
    struct etcd_election_request request;
    struct etcd_election_answer answer;
};

struct candidate {
    struct etcd_election *election;
    uint64_t offset, rate; /* own clock = offset + true * rate / 1000 */
    uint64_t paused_until, deadline, limit;
    unsigned number; /* of the request whose answer counts */
    bool waits, leads;
    int64_t term;
};

struct world {
    struct env env;
    uint64_t seed;
    uint64_t now;
    struct etcd etcd;
    struct candidate c[CANDIDATES];
    struct mail mail[MAIL_MAX];
    int64_t last_term;
    int wins, losses;
    int loss_percent, slow_percent, pause_percent;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
    return (w->seed >> 33) % below;
}

static void env_random(struct env *env, void *buf, size_t n)
{
    struct world *w = (struct world *)(void *)env;
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)buf)[i] = (unsigned char)draw(w, 256);
}

static uint64_t clock_of(const struct world *w, const struct candidate *c)
{
    return c->offset + w->now / 1000 * c->rate;
}

static uint64_t delay(struct world *w)
{
    return draw(w, 100) < (uint64_t)w->slow_percent ? draw(w, 12000) * MS : (1 + draw(w, 30)) * MS;
}

static void post(struct world *w, struct mail m)
{
    if (draw(w, 100) < (uint64_t)w->loss_percent)
        return;
    for (int i = 0; i < MAIL_MAX; i++)
        if (!w->mail[i].used) {
            w->mail[i] = m;
            w->mail[i].used = true;
            w->mail[i].due = w->now + delay(w);
            return;
        }
    fail_msg("too many letters");
}

static void take_step(struct world *w, int i, const struct etcd_election_step *step)
{
    struct candidate *c = &w->c[i];
    assert_false(step->won && step->lost);
    if (step->lost) {
        assert_true(c->leads);
        c->leads = false;
        w->losses++;
    }
    if (step->won) {
        c->leads = true;
        c->term = etcd_election_term(c->election);
        assert_true(c->term > w->last_term);
        w->last_term = c->term;
        w->wins++;
    }
    c->deadline = step->deadline_ns;
    if (step->send) {
        c->number++;
        c->waits = true;
        c->limit = clock_of(w, c) + step->request.limit_ns;
        post(w, (struct mail){.to = i, .number = c->number, .request = step->request});
    }
}

static void candidate_begin(struct world *w, int i)
{
    struct etcd_election_step step;
    etcd_election_free(w->c[i].election);
    w->c[i].election = etcd_election_new(&w->env, 6);
    w->c[i].leads = false;
    etcd_election_start(w->c[i].election, clock_of(w, &w->c[i]), &step);
    take_step(w, i, &step);
}

static void candidate_answered(struct world *w, int i, const struct etcd_election_answer *a)
{
    struct etcd_election_step step;
    w->c[i].waits = false;
    etcd_election_answered(w->c[i].election, clock_of(w, &w->c[i]), a, &step);
    take_step(w, i, &step);
}

static void deliver(struct world *w, struct mail *m)
{
    struct candidate *c = &w->c[m->to];
    struct mail got = *m;
    if (m->at_etcd && c->paused_until > w->now) {
        m->due = c->paused_until + 1;
        return;
    }
    m->used = false;
    if (!got.at_etcd) {
        got.answer = etcd_do(&w->etcd, w->now, &got.request);
        got.at_etcd = true;
        post(w, got);
    } else if (c->waits && got.number == c->number) {
        candidate_answered(w, got.to, &got.answer);
    }
}

static void candidate_run(struct world *w, int i)
{
    struct candidate *c = &w->c[i];
    struct etcd_election_step step;
    const struct etcd_election_answer nothing = {0};
    uint64_t now = clock_of(w, c);
    if (c->paused_until > w->now)
        return;
    if (c->waits && now >= c->limit)
        candidate_answered(w, i, &nothing);
    if (c->deadline != 0 && now >= c->deadline) {
        etcd_election_tick(c->election, now, &step);
        take_step(w, i, &step);
    }
    if (c->deadline == 0) { /* lost: the next process begins */
        if (draw(w, 100) < 50)
            candidate_begin(w, i);
    } else if (draw(w, 100000) < (uint64_t)w->pause_percent) {
        c->paused_until = w->now + draw(w, 15000) * MS;
    } else if (c->leads && draw(w, 100000) < 20) {
        etcd_election_release(c->election, now, &step);
        take_step(w, i, &step);
    }
}

/* Who would write now: a paused process does nothing, but would go on the moment it wakes, so it counts. */
static void check_invariant(struct world *w)
{
    int leaders = 0;
    for (int i = 0; i < CANDIDATES; i++) {
        uint64_t until = etcd_election_valid_until(w->c[i].election);
        leaders += until > clock_of(w, &w->c[i]);
    }
    assert_true(leaders <= 1);
}

static struct world *world_new(uint64_t seed)
{
    struct world *w = mem_zalloc(sizeof *w);
    w->env.random = env_random;
    w->seed = seed;
    w->now = ENV_NS_PER_S;
    w->etcd.revision = 1;
    for (int i = 0; i < CANDIDATES; i++) {
        w->c[i].offset = draw(w, 1000000) * ENV_NS_PER_S;
        w->c[i].rate = 950 + draw(w, 101); /* clocks that differ by 10 % */
    }
    return w;
}

static void world_run(struct world *w, uint64_t seconds)
{
    uint64_t end = w->now + seconds * ENV_NS_PER_S;
    for (int i = 0; i < CANDIDATES; i++)
        candidate_begin(w, i);
    for (; w->now < end; w->now += 5 * MS) {
        etcd_expire(&w->etcd, w->now);
        for (int i = 0; i < MAIL_MAX; i++)
            if (w->mail[i].used && w->mail[i].due <= w->now)
                deliver(w, &w->mail[i]);
        for (int i = 0; i < CANDIDATES; i++)
            candidate_run(w, i);
        check_invariant(w);
    }
}

static void world_free(struct world *w)
{
    for (int i = 0; i < CANDIDATES; i++)
        etcd_election_free(w->c[i].election);
    free(w);
}

static void test_one_leads_at_a_time_whatever_happens(void **state)
{
    int wins = 0, losses = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct world *w = world_new(seed);
        w->loss_percent = (int)(seed % 4) * 10;
        w->slow_percent = (int)(seed % 5) * 5;
        w->pause_percent = (int)(seed % 3) * 40;
        world_run(w, 300);
        wins += w->wins;
        losses += w->losses;
        world_free(w);
    }
    assert_true(wins > 500);
    assert_true(losses > 300);
}

static void test_a_quiet_world_keeps_its_leader(void **state)
{
    struct world *w = world_new(7);
    (void)state;
    for (int i = 0; i < CANDIDATES; i++)
        candidate_begin(w, i);
    uint64_t end = w->now + 600 * ENV_NS_PER_S;
    for (; w->now < end; w->now += 5 * MS) {
        etcd_expire(&w->etcd, w->now);
        for (int i = 0; i < MAIL_MAX; i++)
            if (w->mail[i].used && w->mail[i].due <= w->now)
                deliver(w, &w->mail[i]);
        for (int i = 0; i < CANDIDATES; i++) { /* as candidate_run(), without chance */
            struct etcd_election_step step;
            uint64_t now = clock_of(w, &w->c[i]);
            if (now >= w->c[i].deadline) {
                etcd_election_tick(w->c[i].election, now, &step);
                take_step(w, i, &step);
            }
        }
        check_invariant(w);
    }
    assert_int_equal(w->wins, 1);
    assert_int_equal(w->losses, 0);
    world_free(w);
}

/* ---- one candidate, step by step ---- */

struct lone {
    struct world *w;
    struct etcd_election *e;
    struct etcd_election_step step;
};

static struct lone lone_leader(void)
{
    struct lone l = {.w = world_new(1)};
    l.e = etcd_election_new(&l.w->env, 6);
    etcd_election_start(l.e, 0, &l.step);
    assert_int_equal(l.step.request.ask, ETCD_ASK_LOOK);
    struct etcd_election_answer a = {.answered = true, .term = 4, .term_mod = 40};
    etcd_election_answered(l.e, 100 * MS, &a, &l.step);
    assert_int_equal(l.step.request.ask, ETCD_ASK_GRANT);
    a = (struct etcd_election_answer){.answered = true, .lease = INT64_MAX, .ttl_s = 6};
    etcd_election_answered(l.e, 200 * MS, &a, &l.step);
    assert_int_equal(l.step.request.ask, ETCD_ASK_CLAIM);
    assert_true(l.step.request.lease == INT64_MAX && l.step.request.term == 5 &&
                l.step.request.term_mod == 40);
    return l;
}

static void lone_free(struct lone *l)
{
    etcd_election_free(l->e);
    world_free(l->w);
}

static void lone_wins(struct lone *l)
{
    const struct etcd_election_answer a = {.answered = true, .succeeded = true, .revision = 50};
    etcd_election_answered(l->e, 300 * MS, &a, &l->step);
    assert_true(l->step.won);
    assert_true(etcd_election_term(l->e) == 5 && etcd_election_created(l->e) == 50);
}

static void test_validity_counts_from_the_sending(void **state)
{
    struct lone l = lone_leader();
    (void)state;
    lone_wins(&l);
    assert_true(etcd_election_valid_until(l.e) == 100 * MS + 4000 * MS); /* the grant was sent at 100 ms */
    assert_true(l.step.deadline_ns == 2100 * MS);                        /* a third of 6 s later */
    etcd_election_tick(l.e, 2100 * MS, &l.step);
    assert_int_equal(l.step.request.ask, ETCD_ASK_BEAT);
    const struct etcd_election_answer beat = {.answered = true, .ttl_s = 6};
    etcd_election_answered(l.e, 3000 * MS, &beat, &l.step);
    assert_true(etcd_election_valid_until(l.e) == 2100 * MS + 4000 * MS);
    assert_int_equal(l.step.request.ask, ETCD_ASK_LOOK);
    lone_free(&l);
}

static void test_e3_ttl_zero_or_missing_is_a_lost_lease(void **state)
{
    for (int answered = 0; answered < 2; answered++) {
        struct lone l = lone_leader();
        lone_wins(&l);
        etcd_election_tick(l.e, 2100 * MS, &l.step);
        const struct etcd_election_answer a = {.answered = answered != 0};
        etcd_election_answered(l.e, 2200 * MS, &a, &l.step);
        assert_int_equal(l.step.lost, answered != 0); /* no answer says nothing: another beat */
        assert_int_equal(etcd_election_valid_until(l.e) == 0, answered != 0);
        lone_free(&l);
    }
    (void)state;
}

static void test_an_answer_after_our_time_is_too_late(void **state)
{
    struct lone l = lone_leader();
    const struct etcd_election_answer beat = {.answered = true, .ttl_s = 6};
    (void)state;
    lone_wins(&l);
    etcd_election_tick(l.e, 2100 * MS, &l.step);
    etcd_election_answered(l.e, 4100 * MS, &beat, &l.step); /* sent in time, but we have stopped meanwhile */
    assert_true(l.step.lost);
    assert_true(l.step.deadline_ns == 0);
    lone_free(&l);
}

static void test_another_key_in_our_place_ends_it(void **state)
{
    struct lone l = lone_leader();
    const struct etcd_election_answer beat = {.answered = true, .ttl_s = 6}, look = {.answered = true,
                                                                                     .leader_created = 51,
                                                                                     .leader_lease = 3,
                                                                                     .term = 6};
    (void)state;
    lone_wins(&l);
    etcd_election_tick(l.e, 2100 * MS, &l.step);
    etcd_election_answered(l.e, 2200 * MS, &beat, &l.step);
    etcd_election_answered(l.e, 2300 * MS, &look, &l.step);
    assert_true(l.step.lost);
    lone_free(&l);
}

static void test_a_claim_whose_answer_was_lost_is_found(void **state)
{
    struct lone l = lone_leader();
    const struct etcd_election_answer nothing = {0}, look = {.answered = true,
                                                             .leader_created = 50,
                                                             .leader_lease = INT64_MAX,
                                                             .term = 5,
                                                             .term_mod = 50};
    (void)state;
    etcd_election_answered(l.e, 300 * MS, &nothing, &l.step);
    assert_false(l.step.won);
    etcd_election_tick(l.e, l.step.deadline_ns, &l.step);
    assert_int_equal(l.step.request.ask, ETCD_ASK_LOOK);
    etcd_election_answered(l.e, 2500 * MS, &look, &l.step);
    assert_true(l.step.won);
    assert_true(etcd_election_term(l.e) == 5 && etcd_election_created(l.e) == 50);
    lone_free(&l);
}

static void test_released_at_any_time(void **state)
{
    (void)state;
    for (int at = 0; at < 3; at++) {
        struct lone l = lone_leader();
        if (at > 0)
            lone_wins(&l);
        if (at > 1)
            etcd_election_tick(l.e, 2100 * MS, &l.step);
        etcd_election_release(l.e, 2200 * MS, &l.step);
        assert_int_equal(l.step.lost, at > 0);
        assert_int_equal(l.step.request.ask, ETCD_ASK_REVOKE);
        assert_true(l.step.request.lease == INT64_MAX);
        const struct etcd_election_answer nothing = {0};
        etcd_election_answered(l.e, 4200 * MS, &nothing, &l.step);
        assert_true(l.step.deadline_ns == 0 && !l.step.send);
        lone_free(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_leads_at_a_time_whatever_happens),
        cmocka_unit_test(test_a_quiet_world_keeps_its_leader),
        cmocka_unit_test(test_validity_counts_from_the_sending),
        cmocka_unit_test(test_e3_ttl_zero_or_missing_is_a_lost_lease),
        cmocka_unit_test(test_an_answer_after_our_time_is_too_late),
        cmocka_unit_test(test_another_key_in_our_place_ends_it),
        cmocka_unit_test(test_a_claim_whose_answer_was_lost_is_found),
        cmocka_unit_test(test_released_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
