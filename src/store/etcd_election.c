#include <stdlib.h>

#include "base/mem.h"
#include "base/sm.h"
#include "store/etcd_election.h"

#define LOOK_NS    ENV_NS_PER_S /* between two looks of a candidate; up to twice that */
#define REQUEST_NS (5 * ENV_NS_PER_S)

/*
 * State      waits for                                      woken by
 * STANDING   the next look                                  tick
 * LOOKING    leader's key and term                          answer
 * GRANTING   a lease                                        answer
 * CLAIMING   the transaction                                answer; unknown: LOOKING finds out
 * HOLDING    the next beat; the key is ours                 tick
 * BEATING    the lease's time                               answer; tick: the end of our time
 * CHECKING   whether the key is still ours                  answer; tick: the end of our time
 * RELEASING  the end of the lease                           answer
 * OVER       nothing
 */
enum { STANDING, LOOKING, GRANTING, CLAIMING, HOLDING, BEATING, CHECKING, RELEASING, OVER, STATE_MAX };

#define ENDS (SM_NEXT(RELEASING) | SM_NEXT(OVER))

static const struct sm_state states[STATE_MAX] = {
    [STANDING] = {"standing", SM_NEXT(LOOKING) | ENDS, false},
    [LOOKING] = {"looking",
                 SM_NEXT(STANDING) | SM_NEXT(GRANTING) | SM_NEXT(CLAIMING) | SM_NEXT(HOLDING) | ENDS, false},
    [GRANTING] = {"granting", SM_NEXT(STANDING) | SM_NEXT(CLAIMING) | ENDS, false},
    [CLAIMING] = {"claiming", SM_NEXT(STANDING) | SM_NEXT(CLAIMING) | SM_NEXT(HOLDING) | ENDS, false},
    [HOLDING] = {"holding", SM_NEXT(BEATING) | ENDS, false},
    [BEATING] = {"beating", SM_NEXT(STANDING) | SM_NEXT(HOLDING) | SM_NEXT(CHECKING) | ENDS, false},
    [CHECKING] = {"checking", SM_NEXT(STANDING) | SM_NEXT(HOLDING) | ENDS, false},
    [RELEASING] = {"releasing", SM_NEXT(OVER), false},
    [OVER] = {"over", 0, true},
};

struct etcd_election {
    struct env *env;
    struct sm sm;
    int64_t ttl_s;     /* asked for */
    int64_t lease;     /* 0 = none */
    uint64_t ttl_ns;   /* of the lease, as granted */
    uint64_t sent_ns;  /* when the running request was sent */
    uint64_t lease_ns; /* when the grant or beat that was last answered had been sent */
    uint64_t wake_ns;  /* of STANDING and HOLDING */
    int64_t term, term_mod, created;
    bool leads;
};

struct etcd_election *etcd_election_new(struct env *env, int64_t ttl_s)
{
    struct etcd_election *e = mem_zalloc(sizeof *e);
    e->env = env;
    e->ttl_s = ttl_s;
    sm_init(&e->sm, states, STATE_MAX, STANDING, NULL, e);
    return e;
}

void etcd_election_free(struct etcd_election *e)
{
    free(e);
}

/* Two thirds: the rest is for clocks that do not run alike, and for what was already on its way. */
static uint64_t lease_end(const struct etcd_election *e)
{
    return e->lease_ns + e->ttl_ns / 3 * 2;
}

uint64_t etcd_election_valid_until(const struct etcd_election *e)
{
    return e->leads ? lease_end(e) : 0;
}

int64_t etcd_election_term(const struct etcd_election *e)
{
    return e->term;
}

int64_t etcd_election_created(const struct etcd_election *e)
{
    return e->leads ? e->created : 0;
}

/* ---- states ---- */

static void ask(struct etcd_election *e, int state, enum etcd_election_ask what, uint64_t limit, uint64_t now,
                struct etcd_election_step *step)
{
    sm_move(&e->sm, state);
    e->sent_ns = now;
    step->send = true;
    step->request = (struct etcd_election_request){
        .ask = what, .lease = e->lease, .term = e->term, .term_mod = e->term_mod, .limit_ns = limit};
}

static void enter_standing(struct etcd_election *e, uint64_t now)
{
    sm_move(&e->sm, STANDING);
    e->wake_ns = now + LOOK_NS + env_random_below(e->env, LOOK_NS);
}

static void enter_beating(struct etcd_election *e, uint64_t now, struct etcd_election_step *step)
{
    ask(e, BEATING, ETCD_ASK_BEAT, e->ttl_ns / 6, now, step);
}

/* The key is ours: we lead as soon as the lease is known to last, which a late answer does not tell. */
static void enter_holding(struct etcd_election *e, uint64_t now, struct etcd_election_step *step)
{
    sm_move(&e->sm, HOLDING);
    if (now >= lease_end(e)) {
        enter_beating(e, now, step);
        return;
    }
    step->won = !e->leads;
    e->leads = true;
    e->wake_ns = e->lease_ns + e->ttl_ns / 3;
    if (e->wake_ns < now + ENV_NS_PER_MS)
        e->wake_ns = now + ENV_NS_PER_MS;
}

/* A leadership that ends is over for good; one that never began goes on standing. */
static void give_up(struct etcd_election *e, uint64_t now, struct etcd_election_step *step)
{
    e->lease = 0;
    step->lost = e->leads;
    if (e->leads)
        sm_move(&e->sm, OVER);
    else
        enter_standing(e, now);
    e->leads = false;
}

static void step_end(struct etcd_election *e, uint64_t now, struct etcd_election_step *step)
{
    switch (sm_now(&e->sm)) {
    case STANDING:
    case HOLDING:
        step->deadline_ns = e->wake_ns;
        break;
    case OVER:
        step->deadline_ns = 0;
        break;
    default:
        step->deadline_ns = now + 2 * REQUEST_NS; /* an answer comes before */
    }
    if (e->leads && step->deadline_ns > lease_end(e))
        step->deadline_ns = lease_end(e);
}

/* ---- answers ---- */

/* `a` says who leads. A claim whose answer was lost shows here as a key with our lease. */
static void judge_look(struct etcd_election *e, uint64_t now, const struct etcd_election_answer *a,
                       struct etcd_election_step *step)
{
    if (a->leader_created != 0 && (e->lease == 0 || a->leader_lease != e->lease)) {
        enter_standing(e, now);
        return;
    }
    if (a->leader_created != 0) {
        e->created = a->leader_created;
        e->term = a->term;
        enter_holding(e, now, step);
        return;
    }
    e->term = a->term + 1;
    e->term_mod = a->term_mod;
    if (e->lease != 0 && now < lease_end(e)) {
        ask(e, CLAIMING, ETCD_ASK_CLAIM, REQUEST_NS, now, step);
    } else if (sm_now(&e->sm) == LOOKING) {
        e->lease = 0;
        ask(e, GRANTING, ETCD_ASK_GRANT, REQUEST_NS, now, step);
    } else {
        enter_standing(e, now);
    }
}

static void lease_lives(struct etcd_election *e, int64_t ttl_s)
{
    e->lease_ns = e->sent_ns;
    e->ttl_ns = (uint64_t)ttl_s * ENV_NS_PER_S;
}

static void grant_answered(struct etcd_election *e, uint64_t now, const struct etcd_election_answer *a,
                           struct etcd_election_step *step)
{
    if (!a->answered || a->lease == 0 || a->ttl_s <= 0) {
        enter_standing(e, now);
        return;
    }
    e->lease = a->lease;
    lease_lives(e, a->ttl_s);
    ask(e, CLAIMING, ETCD_ASK_CLAIM, REQUEST_NS, now, step);
}

static void claim_answered(struct etcd_election *e, uint64_t now, const struct etcd_election_answer *a,
                           struct etcd_election_step *step)
{
    if (!a->answered) {
        enter_standing(e, now);
    } else if (a->succeeded) {
        e->created = a->revision;
        enter_holding(e, now, step);
    } else {
        judge_look(e, now, a, step);
    }
}

static void beat_answered(struct etcd_election *e, uint64_t now, const struct etcd_election_answer *a,
                          struct etcd_election_step *step)
{
    if (!a->answered) {
        sm_move(&e->sm, HOLDING);
        e->wake_ns = now + e->ttl_ns / 30; /* the next member, soon */
    } else if (a->ttl_s <= 0) {
        give_up(e, now, step);
    } else {
        lease_lives(e, a->ttl_s);
        ask(e, CHECKING, ETCD_ASK_LOOK, e->ttl_ns / 6, now, step);
    }
}

static void check_answered(struct etcd_election *e, uint64_t now, const struct etcd_election_answer *a,
                           struct etcd_election_step *step)
{
    if (a->answered && a->leader_created != e->created)
        give_up(e, now, step);
    else
        enter_holding(e, now, step);
}

void etcd_election_answered(struct etcd_election *e, uint64_t now, const struct etcd_election_answer *a,
                            struct etcd_election_step *step)
{
    *step = (struct etcd_election_step){0};
    if (e->leads && now >= lease_end(e) && !(sm_now(&e->sm) == RELEASING))
        give_up(e, now, step);
    else
        switch (sm_now(&e->sm)) {
        case LOOKING:
            if (a->answered)
                judge_look(e, now, a, step);
            else
                enter_standing(e, now);
            break;
        case GRANTING:
            grant_answered(e, now, a, step);
            break;
        case CLAIMING:
            claim_answered(e, now, a, step);
            break;
        case BEATING:
            beat_answered(e, now, a, step);
            break;
        case CHECKING:
            check_answered(e, now, a, step);
            break;
        case RELEASING:
            sm_move(&e->sm, OVER);
            break;
        default:
            break; /* of a request that no longer counts */
        }
    step_end(e, now, step);
}

/* ---- time ---- */

void etcd_election_start(struct etcd_election *e, uint64_t now, struct etcd_election_step *step)
{
    *step = (struct etcd_election_step){0};
    ask(e, LOOKING, ETCD_ASK_LOOK, REQUEST_NS, now, step);
    step_end(e, now, step);
}

void etcd_election_tick(struct etcd_election *e, uint64_t now, struct etcd_election_step *step)
{
    *step = (struct etcd_election_step){0};
    int state = sm_now(&e->sm);
    if (e->leads && now >= lease_end(e) && state != RELEASING)
        give_up(e, now, step);
    else if (state == STANDING && now >= e->wake_ns)
        ask(e, LOOKING, ETCD_ASK_LOOK, REQUEST_NS, now, step);
    else if (state == HOLDING && now >= e->wake_ns)
        enter_beating(e, now, step);
    step_end(e, now, step);
}

void etcd_election_release(struct etcd_election *e, uint64_t now, struct etcd_election_step *step)
{
    *step = (struct etcd_election_step){0};
    step->lost = e->leads;
    e->leads = false;
    if (sm_now(&e->sm) == OVER || sm_now(&e->sm) == RELEASING)
        return;
    if (e->lease != 0)
        ask(e, RELEASING, ETCD_ASK_REVOKE, 2 * ENV_NS_PER_S, now, step);
    else
        sm_move(&e->sm, OVER);
    step_end(e, now, step);
}
