#include "health/health.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/env.h"

#define DOWN_AFTER 2 /* missed periods */

const char *health_rule_name(int number)
{
    static const char *const names[HEALTH_R_COUNT] = {
        [HEALTH_R_UNKNOWN] = "unknown",       [HEALTH_R_UP] = "up",
        [HEALTH_R_SUSPECT] = "suspect",       [HEALTH_R_DOWN] = "down",
        [HEALTH_R_NEVER_SEEN] = "never-seen", [HEALTH_R_RESTARTED] = "restarted",
        [HEALTH_R_ROLE] = "role-changed",     [HEALTH_R_TIMELINE] = "timeline-changed",
        [HEALTH_R_IDENTITY] = "other-server",
    };
    return number >= 1 && number < HEALTH_R_COUNT ? names[number] : "unknown-rule";
}

/* Whole periods between the two, a quarter of one being the slack of the timer. */
static unsigned periods(uint64_t since_ns, uint64_t until_ns, uint64_t period_ns, int64_t slack_quarters)
{
    if (until_ns <= since_ns || period_ns == 0)
        return 0;
    uint64_t span = until_ns - since_ns, quarter = period_ns / 4;
    if (slack_quarters > 0)
        span += quarter;
    else
        span = span > quarter ? span - quarter : 0;
    uint64_t n = span / period_ns;
    return n < 1000000 ? (unsigned)n : 1000000;
}

static unsigned missed_periods(const struct instance_facts *facts, uint64_t now_ns, uint64_t period_ns)
{
    unsigned silent = periods(facts->seen_ns, now_ns, period_ns, -1), failed = 0;
    if (facts->failed_ns > facts->seen_ns) {
        failed = periods(facts->seen_ns, facts->failed_ns, period_ns, +1);
        failed = failed > 0 ? failed : 1;
    }
    return silent > failed ? silent : failed;
}

static double seconds(uint64_t ns)
{
    return (double)ns / (double)ENV_NS_PER_S;
}

static const char *last_error(const struct instance_facts *facts)
{
    bool failed = facts->failed_ns > facts->seen_ns && facts->error[0] != '\0';
    return failed ? facts->error : "no answer";
}

static void judge_never_seen(const struct instance_facts *facts, struct health_verdict *ret)
{
    unsigned failures = facts->errors_total > DOWN_AFTER ? DOWN_AFTER : (unsigned)facts->errors_total;
    if (facts->failed_ns == 0) {
        *ret = (struct health_verdict){.health = HEALTH_UNKNOWN, .rule = HEALTH_R_UNKNOWN};
        snprintf(ret->sentence, sizeof ret->sentence, "not polled yet (H%d)", ret->rule);
        return;
    }
    *ret = (struct health_verdict){.health = failures < DOWN_AFTER ? HEALTH_SUSPECT : HEALTH_DOWN,
                                   .missed = failures > 0 ? failures : 1,
                                   .rule = HEALTH_R_NEVER_SEEN};
    snprintf(ret->sentence, sizeof ret->sentence, "never answered, %" PRIu64 " polls failed: %s (H%d)",
             facts->errors_total, facts->error[0] != '\0' ? facts->error : "no answer", ret->rule);
}

void health_judge(const struct instance_facts *facts, uint64_t now_ns, uint64_t period_ns,
                  struct health_verdict *ret)
{
    if (facts->seen_ns == 0) {
        judge_never_seen(facts, ret);
        return;
    }
    unsigned missed = missed_periods(facts, now_ns, period_ns);
    double ago = now_ns > facts->seen_ns ? seconds(now_ns - facts->seen_ns) : 0;
    *ret = (struct health_verdict){.health = HEALTH_UP, .rule = HEALTH_R_UP, .missed = missed};
    if (missed >= DOWN_AFTER) {
        ret->health = HEALTH_DOWN;
        ret->rule = HEALTH_R_DOWN;
    } else if (missed > 0) {
        ret->health = HEALTH_SUSPECT;
        ret->rule = HEALTH_R_SUSPECT;
    }
    if (missed == 0)
        snprintf(ret->sentence, sizeof ret->sentence, "answered %.1f s ago (H%d)", ago, ret->rule);
    else
        snprintf(ret->sentence, sizeof ret->sentence,
                 "%u poll%s of %.1f s missed, last answer %.1f s ago: %s (H%d)", missed,
                 missed == 1 ? "" : "s", seconds(period_ns), ago, last_error(facts), ret->rule);
}

static struct health_change *add(struct health_change *changes, unsigned *count, int rule)
{
    struct health_change *change = &changes[(*count)++];
    change->rule = rule;
    return change;
}

unsigned health_compare(const char *instance, const struct instance_facts *before,
                        const struct instance_facts *after, struct health_change changes[HEALTH_CHANGES_MAX])
{
    unsigned count = 0;
    struct health_change *c;
    if (before->seen_ns == 0 || after->seen_ns == 0)
        return 0;
    uint64_t id = before->system_identifier;
    if (id != 0 && after->system_identifier != 0 && id != after->system_identifier) {
        c = add(changes, &count, HEALTH_R_IDENTITY);
        snprintf(c->sentence, sizeof c->sentence,
                 "instance %s is another server now: system identifier %" PRIu64 ", before %" PRIu64 " (H%d)",
                 instance, after->system_identifier, id, c->rule);
        return count;
    }
    if (before->started_us != 0 && after->started_us != 0 && before->started_us != after->started_us) {
        char when[ENV_TIME_SIZE];
        env_format_time(after->started_us, when);
        c = add(changes, &count, HEALTH_R_RESTARTED);
        snprintf(c->sentence, sizeof c->sentence, "instance %s was restarted at %s (H%d)", instance, when,
                 c->rule);
    }
    if (before->role != ROLE_UNKNOWN && after->role != ROLE_UNKNOWN && before->role != after->role) {
        c = add(changes, &count, HEALTH_R_ROLE);
        snprintf(c->sentence, sizeof c->sentence, "instance %s became a %s, it was a %s (H%d)", instance,
                 instance_role_name(after->role), instance_role_name(before->role), c->rule);
    }
    if (before->timeline != 0 && after->timeline != 0 && before->timeline != after->timeline) {
        c = add(changes, &count, HEALTH_R_TIMELINE);
        snprintf(c->sentence, sizeof c->sentence,
                 "instance %s is on timeline %" PRIu32 ", it was on %" PRIu32 " (H%d)", instance,
                 after->timeline, before->timeline, c->rule);
    }
    return count;
}
