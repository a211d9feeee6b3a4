/* Is the primary gone? From what is certain to what is only likely; see ha_decide.h. */
#include <inttypes.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/env.h"
#include "health/ha_decide.h"

struct judging {
    const struct ha_shard *shard;
    const struct ha_instance *primary;
    uint64_t now;
    struct words words;
    struct ha_verdict *ret;
};

static uint64_t age(const struct judging *j, uint64_t since_ns)
{
    return j->now > since_ns ? j->now - since_ns : 0;
}

static void set_time(struct words *w, const char *key, uint64_t ns)
{
    words_set(w, key, "%.1f s", (double)ns / (double)ENV_NS_PER_S);
}

static void say(struct judging *j, int rule)
{
    j->ret->rule = rule;
    j->ret->fail_over = rule == HA_F_NOT_RETURNED || rule == HA_F_LOST || rule == HA_F_GONE;
    ha_rule_render(rule, &j->words, j->ret->sentence);
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* While we stood still ourselves nobody was silent. */
static uint64_t last_heard(const struct judging *j, const struct ha_instance *i)
{
    return later(i->heard_ns, j->shard->awake_ns);
}

static uint64_t last_seen(const struct judging *j, const struct ha_instance *i)
{
    return later(last_heard(j, i), i->reached_ns);
}

/* Its machine answers that no server is there, and nobody is who would start one: the agent is gone, or says
 * nothing, as one that was stopped by a signal and whose watchdog has ended the server. */
static bool nobody_there(const struct judging *j, const struct ha_instance *i)
{
    return i->refused && (i->closed || age(j, last_heard(j, i)) >= j->shard->policy.silent_ns / 2);
}

/* Its agent speaks now. What it said before it fell silent, or was taken away, says nothing of now. */
static bool is_heard(const struct judging *j, const struct ha_instance *i)
{
    return i->heard_ns != 0 && !i->closed && i->pod != HA_POD_GONE &&
           age(j, i->heard_ns) < j->shard->policy.silent_ns;
}

static ha_set heard_others(const struct judging *j)
{
    ha_set set = 0;
    for (unsigned i = 0; i < j->shard->count; i++)
        if (&j->shard->instances[i] != j->primary && is_heard(j, &j->shard->instances[i]))
            set |= HA_BIT(i);
    return set;
}

/* An instance that is heard and receives from the primary; NULL = all that are heard have lost it. */
static const struct ha_instance *still_receives(const struct judging *j)
{
    ha_set heard = heard_others(j);
    for (unsigned i = 0; i < j->shard->count; i++) {
        const struct ha_instance *x = &j->shard->instances[i];
        if ((heard & HA_BIT(i)) != 0 && x->receives && age(j, x->received_ns) < j->shard->policy.quiet_ns)
            return x;
    }
    return NULL;
}

static bool may_be_promoted(const struct ha_instance *i)
{
    return !i->no_failover && !i->delayed;
}

/* It is gone: begin only what can be finished. */
static void judge_gone(struct judging *j, int rule)
{
    const struct ha_record *r = &j->shard->record;
    const struct ha_config *open = NULL;
    ha_set heard = heard_others(j), candidates = 0;
    if (ha_needed(ha_newest(r)) == 0) {
        words_set(&j->words, "alone", "%s", j->primary->name);
        say(j, HA_F_ALONE);
        return;
    }
    if (!ha_all_satisfied(r, heard, &open)) {
        if (ha_needed(open) == 0) { /* of an older set, whose commits perhaps only its primary has */
            words_set(&j->words, "alone", "%s", j->shard->instances[open->primary].name);
            say(j, HA_F_ALONE);
            return;
        }
        words_set(&j->words, "heard", "%u", ha_size(heard & open->members));
        words_set(&j->words, "needed", "%u", ha_needed(open));
        say(j, HA_F_UNHEARD);
        return;
    }
    for (unsigned i = 0; i < j->shard->count; i++)
        if (may_be_promoted(&j->shard->instances[i]))
            candidates |= HA_BIT(i);
    say(j, (candidates & heard & ha_involved(r)) != 0 ? rule : HA_F_NOBODY);
}

/* Neither its agent nor its server can be reached. */
static void judge_unseen(struct judging *j)
{
    const struct ha_instance *p = j->primary;
    const struct ha_policy *policy = &j->shard->policy;
    bool gone = p->pod == HA_POD_GONE, nobody = nobody_there(j, p);
    words_set(&j->words, "why", "%s",
              gone                  ? "its pod or node is gone"
              : nobody && p->closed ? "agent and server refuse connections"
              : nobody              ? "its server refuses connections, its agent says nothing"
                                    : "it is silent");
    set_time(&j->words, "limit", policy->silent_ns);
    if (!gone && !nobody && age(j, last_seen(j, p)) < policy->silent_ns) {
        say(j, HA_F_SUSPECT);
        return;
    }
    const struct ha_instance *witness = still_receives(j);
    if (witness != NULL) {
        words_set(&j->words, "standby", "%s", witness->name);
        say(j, HA_F_STILL_RECEIVED);
        return;
    }
    judge_gone(j, gone || nobody ? HA_F_GONE : HA_F_LOST);
}

/* Its agent is there and says that the server is not. */
static void judge_ended(struct judging *j)
{
    const struct ha_instance *p = j->primary;
    words_set(&j->words, "why", "its server ended");
    uint64_t ended_ns = later(p->ended_ns, j->shard->awake_ns); /* its return may have been told meanwhile */
    set_time(&j->words, "ago", age(j, p->ended_ns));
    set_time(&j->words, "limit", j->shard->policy.restart_ns);
    if (!p->gave_up && age(j, ended_ns) < j->shard->policy.restart_ns)
        say(j, HA_F_RESTARTING);
    else
        judge_gone(j, HA_F_NOT_RETURNED);
}

void ha_judge(const struct ha_shard *shard, uint64_t now_ns, struct ha_verdict *ret)
{
    const struct ha_config *newest = ha_newest(&shard->record);
    const struct ha_instance *p = &shard->instances[newest->primary];
    struct judging j = {.shard = shard, .primary = p, .now = now_ns, .ret = ret};
    words_set(&j.words, "shard", "%s", shard->name);
    words_set(&j.words, "primary", "%s", p->name);
    words_set(&j.words, "term", "%" PRIu64, shard->record.term);
    set_time(&j.words, "ago", age(&j, later(p->heard_ns, p->reached_ns)));
    if (shard->maintenance)
        say(&j, HA_F_MAINTENANCE);
    else if (shard->record.term > newest->term)
        say(&j, HA_F_UNDER_WAY);
    else if (is_heard(&j, p) && p->ended_ns != 0)
        judge_ended(&j);
    else if (p->pod != HA_POD_GONE && !p->closed && !nobody_there(&j, p) &&
             age(&j, last_seen(&j, p)) < shard->policy.silent_ns / 2)
        say(&j, HA_F_WELL);
    else
        judge_unseen(&j);
}

/* "b is heard and does not stream, c is not heard" */
static void set_missing(struct judging *j, ha_set members)
{
    struct buf text = {0};
    for (unsigned i = 0; i < j->shard->count; i++) {
        const struct ha_instance *x = &j->shard->instances[i];
        if ((members & HA_BIT(i)) != 0 && !x->streams)
            buf_printf(&text, "%s%s is %s", text.length > 0 ? ", " : "", x->name,
                       is_heard(j, x) ? "heard and does not stream" : "not heard");
    }
    words_set(&j->words, "missing", "%s", buf_text(&text));
    buf_free(&text);
}

void ha_waits(const struct ha_shard *shard, uint64_t now_ns, struct ha_verdict *ret)
{
    const struct ha_config *newest = ha_newest(&shard->record);
    struct judging j = {
        .shard = shard, .primary = &shard->instances[newest->primary], .now = now_ns, .ret = ret};
    unsigned streaming = 0;
    *ret = (struct ha_verdict){0};
    for (unsigned i = 0; i < shard->count; i++) {
        const struct ha_instance *x = &shard->instances[i];
        bool counts = x->streams || age(&j, x->streams_ns) < shard->policy.exclude_ns;
        streaming += (newest->members & HA_BIT(i)) != 0 && counts;
    }
    if (streaming >= newest->k)
        return;
    words_set(&j.words, "shard", "%s", shard->name);
    words_set(&j.words, "primary", "%s", j.primary->name);
    words_set(&j.words, "streaming", "%u", streaming);
    words_set(&j.words, "needed", "%u", newest->k);
    set_missing(&j, newest->members);
    say(&j, HA_F_UNFOLLOWED);
}
