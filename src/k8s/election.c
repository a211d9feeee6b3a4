/*
 * Happy path: GET, the record is free or expired, UPDATE, leading; UPDATE every 2 s.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/sm.h"
#include "k8s/election.h"

#define LEASE_SECONDS ((long long)(ELECTION_LEASE_NS / ENV_NS_PER_S))
#define UNCLAIMED     "unclaimed"        /* holder of a record that was just made */
#define REQUEST_NS    (5 * ENV_NS_PER_S) /* an answer later than this is no answer */

/*
 *  LOOKING --> FOLLOWING --> LOOKING        (somebody else holds it)
 *     |  \
 *     |   +--> TAKING --> LEADING --> RENEWING --> LEADING
 *     |           |                      |  \
 *     |           v                      |   +--> CHECKING --> RENEWING
 *     +<--------- FOLLOWING <------------+            |
 *                     ^-------------------------------+
 *  any of the last three --> RELEASING --> RELEASED
 *
 * LOOKING   waits for the answer to GET
 * CREATING  (from LOOKING, to FOLLOWING) waits for the answer to the CREATE of a record that was not there
 * FOLLOWING waits for its timer: 2 s and up to 120 % more
 * TAKING    waits for the answer to the UPDATE that would make us leader
 * LEADING   waits for its timer: 2 s
 * RENEWING  waits for the answer to the UPDATE that keeps us leader
 * CHECKING  waits for the answer to the GET after a renewal that failed, or for its timer before it
 * RELEASING waits for the answer to the UPDATE that frees the lease
 */
enum { LOOKING, CREATING, FOLLOWING, TAKING, LEADING, RENEWING, CHECKING, RELEASING, RELEASED, STATE_MAX };

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATE_MAX] = {
    [LOOKING] = {"looking", N(CREATING) | N(FOLLOWING) | N(TAKING) | N(RELEASED), false},
    [CREATING] = {"creating", N(FOLLOWING) | N(RELEASED), false},
    [FOLLOWING] = {"following", N(LOOKING) | N(RELEASED), false},
    [TAKING] = {"taking", N(LEADING) | N(FOLLOWING) | N(RELEASED), false},
    [LEADING] = {"leading", N(RENEWING) | N(FOLLOWING) | N(RELEASING), false},
    [RENEWING] = {"renewing", N(LEADING) | N(CHECKING) | N(FOLLOWING) | N(RELEASING), false},
    [CHECKING] = {"checking", N(RENEWING) | N(CHECKING) | N(FOLLOWING) | N(RELEASING), false},
    [RELEASING] = {"releasing", N(RELEASED), false},
    [RELEASED] = {"released", 0, true},
};
#undef N

struct record {
    char *holder;
    char *version;      /* resourceVersion */
    char *acquired;     /* acquireTime, as it came */
    int64_t duration_s; /* leaseDurationSeconds */
    int64_t transitions;
    char *raw; /* spec as text: any change of it is a sign of life */
};

struct election {
    struct election_options o;
    struct sm sm;
    struct record seen; /* holder NULL: there is none */
    uint64_t seen_ns;   /* when it was first seen as it is now */
    uint64_t deadline_ns;
    bool sent; /* a request is under way */
    uint64_t sent_ns;
    uint64_t valid_until_ns;
    struct buf body;
    struct election_step *step;
    uint64_t now_ns;
};

static void record_free(struct record *r)
{
    free(r->holder);
    free(r->version);
    free(r->acquired);
    free(r->raw);
    memset(r, 0, sizeof *r);
}

struct election *election_new(const struct election_options *options)
{
    struct election *e = mem_zalloc(sizeof *e);
    e->o = *options;
    e->o.name = mem_strdup(options->name);
    e->o.name_space = mem_strdup(options->name_space);
    e->o.identity = mem_strdup(options->identity);
    e->o.dead = mem_strdup(options->dead);
    sm_init(&e->sm, states, STATE_MAX, FOLLOWING, NULL, e);
    return e;
}

void election_free(struct election *e)
{
    if (e == NULL)
        return;
    record_free(&e->seen);
    buf_free(&e->body);
    free((char *)(uintptr_t)e->o.name);
    free((char *)(uintptr_t)e->o.name_space);
    free((char *)(uintptr_t)e->o.identity);
    free((char *)(uintptr_t)e->o.dead);
    free(e);
}

uint64_t election_valid_until(const struct election *e)
{
    return e->valid_until_ns;
}

bool election_leads(const struct election *e, uint64_t now_ns)
{
    return now_ns < e->valid_until_ns;
}

const char *election_holder(const struct election *e)
{
    return e->seen.holder != NULL ? e->seen.holder : "";
}

int64_t election_transitions(const struct election *e)
{
    return e->seen.transitions;
}

/* ---- records ---- */

static char *copy_text(yyjson_val *object, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return mem_strdup(text != NULL ? text : "");
}

static bool record_read(const char *body, size_t length, struct record *ret)
{
    yyjson_doc *doc = yyjson_read(body, length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    yyjson_val *metadata = yyjson_obj_get(root, "metadata"), *spec = yyjson_obj_get(root, "spec");
    bool ok = yyjson_get_str(yyjson_obj_get(metadata, "resourceVersion")) != NULL;
    if (ok) {
        ret->holder = copy_text(spec, "holderIdentity");
        ret->acquired = copy_text(spec, "acquireTime");
        ret->version = copy_text(metadata, "resourceVersion");
        ret->duration_s = yyjson_get_sint(yyjson_obj_get(spec, "leaseDurationSeconds"));
        ret->transitions = yyjson_get_sint(yyjson_obj_get(spec, "leaseTransitions"));
        char *raw = yyjson_val_write(spec, 0, NULL);
        ret->raw = raw != NULL ? raw : mem_strdup("");
    }
    yyjson_doc_free(doc);
    return ok;
}

static void record_note(struct election *e, struct record *found)
{
    bool same = e->seen.raw != NULL && strcmp(e->seen.raw, found->raw) == 0;
    if (!same)
        e->seen_ns = e->now_ns;
    record_free(&e->seen);
    e->seen = *found;
}

static bool is_ours(const struct election *e)
{
    return e->seen.holder != NULL && strcmp(e->seen.holder, e->o.identity) == 0;
}

/* ---- requests ---- */

static void ask(struct election *e, int state, enum election_method method)
{
    if (sm_now(&e->sm) != state || state == CHECKING)
        sm_move(&e->sm, state);
    e->sent = true;
    e->sent_ns = e->now_ns;
    e->deadline_ns = e->now_ns + REQUEST_NS;
    e->step->send = true;
    e->step->request.method = method;
    e->step->request.body = method == ELECTION_GET ? NULL : buf_text(&e->body);
}

/* The whole Lease. RFC 3339 with exactly six digits: apimachinery's MicroTime reads nothing else. */
static void write_body(struct election *e, const char *holder, long long seconds, bool take)
{
    char now[ENV_TIME_SIZE];
    bool keep = !take && e->seen.acquired != NULL && e->seen.acquired[0] != '\0';
    int64_t transitions = e->seen.transitions + take;
    env_format_time(e->o.env->wall_us(e->o.env), now);
    buf_reset(&e->body);
    (void)buf_printf(
        &e->body,
        "{\"apiVersion\":\"coordination.k8s.io/v1\",\"kind\":\"Lease\",\"metadata\":{\"name\":\"%s\","
        "\"namespace\":\"%s\"",
        e->o.name, e->o.name_space);
    if (e->seen.version != NULL)
        (void)buf_printf(&e->body, ",\"resourceVersion\":\"%s\"", e->seen.version);
    (void)buf_printf(
        &e->body,
        "},\"spec\":{\"holderIdentity\":\"%s\",\"leaseDurationSeconds\":%lld,\"acquireTime\":\"%s\","
        "\"renewTime\":\"%s\",\"leaseTransitions\":%lld}}",
        holder, seconds, keep ? e->seen.acquired : now, now, (long long)transitions);
}

static void look(struct election *e)
{
    ask(e, LOOKING, ELECTION_GET);
}

static void follow(struct election *e)
{
    double jitter = 1.0 + 1.2 * env_random_unit(e->o.env); /* client-go: JitterFactor 1.2 */
    if (sm_now(&e->sm) != FOLLOWING)
        sm_move(&e->sm, FOLLOWING);
    e->sent = false;
    e->deadline_ns = e->now_ns + (uint64_t)((double)ELECTION_RETRY_NS * jitter);
}

static void take(struct election *e)
{
    write_body(e, e->o.identity, LEASE_SECONDS, !is_ours(e));
    ask(e, TAKING, ELECTION_UPDATE);
}

/*
 * There is none. Perhaps it was deleted under a leader who does not know yet: so the new one belongs to
 * nobody for the time of a lease, and whoever then still sees it as it is may take it. To create it as ours
 * at once would make two leaders (the simulation shows it).
 */
static void create_unclaimed(struct election *e)
{
    record_free(&e->seen);
    write_body(e, UNCLAIMED, LEASE_SECONDS, false);
    ask(e, CREATING, ELECTION_CREATE);
}

static void renew(struct election *e)
{
    write_body(e, e->o.identity, LEASE_SECONDS, false);
    ask(e, RENEWING, ELECTION_UPDATE);
}

static void lose(struct election *e)
{
    e->valid_until_ns = 0;
    e->step->lost = true;
    follow(e);
}

/* ---- what the record says ---- */

/* The record's holder cannot write any more: nothing is left to wait for. */
static bool is_dead(const struct election *e)
{
    size_t length = strlen(e->seen.holder);
    const char *line = e->o.dead != NULL ? e->o.dead : "", *end;
    for (; (end = strchr(line, '\n')) != NULL; line = end + 1)
        if (length > 0 && length == (size_t)(end - line) && memcmp(line, e->seen.holder, length) == 0)
            return true;
    return false;
}

/*
 * Released by its holder, or unchanged for as long as it says, by our own clock since we saw it change. Ours:
 * a write whose answer was lost.
 */
static bool may_take(const struct election *e)
{
    bool released = e->seen.holder[0] == '\0' && e->seen.duration_s <= 1;
    if (released || is_ours(e) || is_dead(e))
        return true;
    int64_t seconds = e->seen.duration_s;
    uint64_t duration = seconds > 0 && seconds < 86400 ? (uint64_t)seconds * ENV_NS_PER_S : ELECTION_LEASE_NS;
    return e->now_ns - e->seen_ns >= duration;
}

static void looked(struct election *e)
{
    if (may_take(e))
        take(e);
    else
        follow(e);
}

/* Our write is in the record: we lead, counted from when it was sent. */
static void confirmed(struct election *e)
{
    bool first = e->valid_until_ns == 0;
    e->valid_until_ns = e->sent_ns + ELECTION_RENEW_NS;
    if (e->now_ns >= e->valid_until_ns) { /* the answer took too long to be worth anything */
        if (first) {
            e->valid_until_ns = 0;
            follow(e);
        } else {
            lose(e);
        }
        return;
    }
    sm_move(&e->sm, LEADING);
    e->sent = false;
    e->deadline_ns = e->sent_ns + ELECTION_RETRY_NS;
    e->step->won = first;
}

static void renewal_failed(struct election *e)
{
    sm_move(&e->sm, CHECKING);
    e->sent = false;
    e->deadline_ns = e->now_ns + ELECTION_RETRY_NS / 2;
}

static void checked(struct election *e)
{
    if (is_ours(e))
        renew(e);
    else
        lose(e);
}

static bool good(int status)
{
    return status == 200 || status == 201;
}

static void answer_candidate(struct election *e, int status, bool have)
{
    if (sm_now(&e->sm) == TAKING && have && is_ours(e)) {
        confirmed(e);
    } else if (sm_now(&e->sm) == LOOKING && status == 404) {
        create_unclaimed(e);
    } else if (sm_now(&e->sm) == LOOKING && have) {
        looked(e);
    } else {
        follow(e);
    }
}

static void answer_leader(struct election *e, int status, bool have)
{
    if (sm_now(&e->sm) == CHECKING && status == 404) {
        lose(e); /* somebody removed it: anybody may create it now */
    } else if (sm_now(&e->sm) == CHECKING && have) {
        checked(e);
    } else if (sm_now(&e->sm) == RENEWING && have && is_ours(e)) {
        confirmed(e);
    } else {
        renewal_failed(e);
    }
}

/* ---- calls ---- */

static void step_begin(struct election *e, uint64_t now_ns, struct election_step *step)
{
    memset(step, 0, sizeof *step);
    e->step = step;
    e->now_ns = now_ns;
}

static void step_end(struct election *e)
{
    bool leads = e->valid_until_ns != 0;
    e->step->deadline_ns = e->deadline_ns;
    if (leads && e->valid_until_ns < e->deadline_ns)
        e->step->deadline_ns = e->valid_until_ns;
    if (sm_now(&e->sm) == RELEASED)
        e->step->deadline_ns = 0;
    e->step = NULL;
}

void election_start(struct election *e, uint64_t now_ns, struct election_step *step)
{
    step_begin(e, now_ns, step);
    look(e);
    step_end(e);
}

static void overdue(struct election *e)
{
    switch (sm_now(&e->sm)) {
    case FOLLOWING:
        look(e);
        break;
    case LEADING:
        renew(e);
        break;
    case CHECKING:
        if (e->sent)
            renewal_failed(e);
        else
            ask(e, CHECKING, ELECTION_GET);
        break;
    case RENEWING:
        renewal_failed(e);
        break;
    case RELEASING:
        sm_move(&e->sm, RELEASED);
        break;
    default:
        follow(e);
    }
}

void election_tick(struct election *e, uint64_t now_ns, struct election_step *step)
{
    step_begin(e, now_ns, step);
    if (e->valid_until_ns != 0 && now_ns >= e->valid_until_ns)
        lose(e);
    else if (now_ns >= e->deadline_ns && sm_now(&e->sm) != RELEASED)
        overdue(e);
    step_end(e);
}

void election_answer(struct election *e, uint64_t now_ns, int status, const char *body, size_t length,
                     struct election_step *step)
{
    struct record found = {0};
    step_begin(e, now_ns, step);
    if (e->valid_until_ns != 0 && now_ns >= e->valid_until_ns) {
        lose(e);
    } else if (e->sent) {
        bool have = good(status) && record_read(body, length, &found);
        int state = sm_now(&e->sm);
        e->sent = false;
        if (have)
            record_note(e, &found);
        if (state == RELEASING)
            sm_move(&e->sm, RELEASED);
        else if (state == LOOKING || state == CREATING || state == TAKING)
            answer_candidate(e, status, have);
        else
            answer_leader(e, status, have);
    }
    step_end(e);
}

void election_release(struct election *e, uint64_t now_ns, struct election_step *step)
{
    step_begin(e, now_ns, step);
    bool leads = e->valid_until_ns != 0;
    e->valid_until_ns = 0;
    step->lost = leads;
    if (leads && e->seen.holder != NULL) {
        write_body(e, "", 1, false);
        ask(e, RELEASING, ELECTION_UPDATE);
    } else if (sm_now(&e->sm) != RELEASED) {
        sm_move(&e->sm, RELEASED);
    }
    step_end(e);
}
