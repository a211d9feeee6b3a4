/*
 * The other story: the machine of a primary ends under load, as by kill -9 of all that runs for it. A standby
 * takes over, the old primary comes back and follows, and a switchover gives it its place again.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/demo_files.h"
#include "cli/demo_impl.h"
#include "cli/human.h"
#include "cli/session.h"

#define SHARD     "s1"
#define INSTANCES 3
#define LOOK_NS   (50 * ENV_NS_PER_MS)

static double seconds_since(const struct demo *d, uint64_t since_ns)
{
    return (double)(loop_clock(&d->loop) - since_ns) / 1e9;
}

/* ---- the longest pause of the shard's writes ---- */

static struct load_gap *gap_of(struct demo *d)
{
    return d->load != NULL ? load_watched_gap(d->load, &d->failover.range) : NULL;
}

/* What was before does not count. */
static void gap_forget(struct demo *d)
{
    struct load_gap *gap = gap_of(d);
    if (gap != NULL)
        (void)load_gap_recent(gap, loop_clock(&d->loop));
}

/* The shard's clients have written since the new primary was there: their pause is over. */
static bool gap_over(struct demo *d)
{
    const struct load_gap *gap = gap_of(d);
    return gap != NULL && gap->since_ns > d->failover.opened_ns;
}

static double gap_seconds(struct demo *d)
{
    struct load_gap *gap = gap_of(d);
    return gap != NULL ? (double)load_gap_recent(gap, loop_clock(&d->loop)) / 1e9 : (double)NAN;
}

/* ---- the parts ---- */

static void run_kill(struct work *work)
{
    struct demo *d = work->data;
    d->job_count = demo_member_kill(d->directory, d->failover.first);
}

static void killed(struct demo *d)
{
    if (demo_now(d) == DEMO_FAILOVER && d->job_count == 0)
        demo_failf(d, "nothing of instance %s was found to be killed", d->failover.first);
}

static void lose(struct demo *d)
{
    struct demo_failover *f = &d->failover;
    demo_story_say(&d->story, TONE_HOT,
                   "kill -9 of all that runs for %s, the primary of shard " SHARD
                   ": its server and its agent, as when a machine ends",
                   f->first);
    gap_forget(d);
    f->part = FAILOVER_LOST;
    f->since_ns = loop_clock(&d->loop);
    demo_job(d, run_kill, killed);
}

static void on_switching(struct demo *d, const struct err *err, yyjson_val *root)
{
    (void)root;
    if (err != NULL && demo_now(d) == DEMO_FAILOVER)
        demo_fail(d, err);
}

static void hand_back(struct demo *d)
{
    struct demo_failover *f = &d->failover;
    char path[160];
    demo_story_say(&d->story, TONE_HEAD, "switchover, as before maintenance: %s is to be the primary again",
                   f->first);
    gap_forget(d);
    f->part = FAILOVER_SWITCH;
    f->since_ns = loop_clock(&d->loop);
    (void)snprintf(path, sizeof path, "/v1/databases/shop/shards/" SHARD "/switchover?to=%s", f->first);
    demo_api(d, "POST", path, NULL, on_switching);
}

/* Who was the primary follows, and the clients write. */
static void followed(struct demo *d, struct demo_change *change, const char *name)
{
    char pause[HUMAN_SIZE], back[HUMAN_SIZE];
    change->clients = gap_seconds(d);
    change->following = seconds_since(d, d->failover.since_ns);
    demo_story_say(&d->story, TONE_GOOD,
                   "%s follows as a standby, %s after that; no client of shard " SHARD
                   " was without a write for longer than %s",
                   name, human_duration(change->following, back), human_duration(change->clients, pause));
}

/* ---- the instances ---- */

static void take_member(struct demo_member *m, yyjson_val *item)
{
    yyjson_val *member = yyjson_obj_get(item, "member"), *lag = yyjson_obj_get(member, "lag_bytes");
    *m = (struct demo_member){.primary = yyjson_is_true(yyjson_obj_get(member, "primary")),
                              .sync = yyjson_is_true(yyjson_obj_get(member, "sync")),
                              .streams = yyjson_is_true(yyjson_obj_get(member, "streams")),
                              .lag_bytes = yyjson_is_num(lag) ? yyjson_get_num(lag) : (double)NAN};
    (void)snprintf(m->name, sizeof m->name, "%s", json_get_text(item, "name"));
    (void)snprintf(m->shard, sizeof m->shard, "%s", json_get_text(item, "shard"));
    (void)snprintf(m->assigned, sizeof m->assigned, "%s", json_get_text(member, "assigned"));
    (void)snprintf(m->reported, sizeof m->reported, "%s", json_get_text(member, "reported"));
}

static const struct demo_member *member_of(const struct demo *d, const char *name)
{
    for (int i = 0; i < d->view.member_count; i++)
        if (strcmp(d->view.members[i].name, name) == 0)
            return &d->view.members[i];
    return NULL;
}

static bool follows(const struct demo *d, const char *name)
{
    const struct demo_member *m = member_of(d, name);
    return m != NULL && !m->primary && m->streams && strcmp(m->reported, "standby") == 0;
}

/* A primary with all of its standbys, of either shard; whom a commit may wait for. */
static bool all_stream(const struct demo *d)
{
    int primaries = 0, standbys = 0;
    for (int i = 0; i < d->view.member_count; i++) {
        const struct demo_member *m = &d->view.members[i];
        primaries += m->primary && strcmp(m->reported, "primary") == 0;
        standbys += !m->primary && m->streams && m->sync;
    }
    return primaries == 2 && standbys == 2 * (INSTANCES - 1);
}

static void note_primary(struct demo *d)
{
    for (int i = 0; i < d->view.member_count; i++) {
        const struct demo_member *m = &d->view.members[i];
        if (m->primary && strcmp(m->shard, SHARD) == 0)
            (void)snprintf(d->failover.first, sizeof d->failover.first, "%s", m->name);
    }
}

static void look(struct demo *d)
{
    struct demo_failover *f = &d->failover;
    if (f->part == FAILOVER_WHOLE && all_stream(d)) {
        note_primary(d);
        lose(d);
    } else if (f->part == FAILOVER_REJOIN && follows(d, f->first) && gap_over(d)) {
        followed(d, &f->lost, f->first);
        hand_back(d);
    } else if (f->part == FAILOVER_FOLLOW && follows(d, f->second) && gap_over(d)) {
        followed(d, &f->handed, f->second);
        demo_go(d, DEMO_CHECK);
    }
}

static void on_members(struct demo *d, const struct err *err, yyjson_val *root)
{
    yyjson_val *item;
    size_t i, count;
    d->failover.asked = false;
    if (err == NULL) { /* else the display shows what it had; a manager that is gone is noticed elsewhere */
        d->view.member_count = 0;
        yyjson_arr_foreach(yyjson_obj_get(root, "items"), i, count, item)
        {
            if (d->view.member_count < DEMO_MEMBERS_MAX)
                take_member(&d->view.members[d->view.member_count++], item);
        }
    }
    if (demo_now(d) != DEMO_FAILOVER || d->next >= 0)
        return;
    if (err == NULL)
        look(d);
    loop_timer_start(&d->wait, LOOK_NS);
}

void demo_ask_members(struct demo *d)
{
    if (d->failover.asked || d->admin_url == NULL)
        return;
    d->failover.asked = true;
    demo_api(d, "GET", "/v1/instances?database=shop", NULL, on_members);
}

/* ---- the operations ---- */

static void changed(struct demo *d, yyjson_val *operation, struct demo_change *change)
{
    struct demo_failover *f = &d->failover;
    yyjson_val *record = yyjson_obj_get(operation, "record"), *us = yyjson_obj_get(record, "write_block_us");
    char blocked[HUMAN_SIZE];
    const char *now = json_get_text(operation, "target");
    change->blocked = yyjson_is_num(us) ? yyjson_get_num(us) / 1e6 : (double)NAN;
    f->opened_ns = loop_clock(&d->loop);
    if (f->part == FAILOVER_LOST) {
        f->rule = yyjson_get_int(yyjson_obj_get(record, "rule"));
        (void)snprintf(f->second, sizeof f->second, "%s", now);
        demo_story_say(&d->story, TONE_PLAIN, "decided: %s", json_get_text(record, "reason"));
    }
    demo_story_say(&d->story, TONE_GOOD, "%s is the primary, under term %s; nobody could write for %s", now,
                   json_get_text(record, "term"), human_duration(change->blocked, blocked));
    f->part = f->part == FAILOVER_LOST ? FAILOVER_REJOIN : FAILOVER_FOLLOW;
}

void demo_failover_operation(struct demo *d, yyjson_val *operation)
{
    struct demo_failover *f = &d->failover;
    bool lost = f->part == FAILOVER_LOST;
    const char *status = json_get_text(operation, "status");
    if (demo_now(d) != DEMO_FAILOVER || (!lost && f->part != FAILOVER_SWITCH) ||
        strcmp(json_get_text(operation, "shard"), SHARD) != 0 ||
        strcmp(json_get_text(operation, "kind"), lost ? "failover" : "switchover") != 0)
        return;
    if (strcmp(status, "done") == 0)
        changed(d, operation, lost ? &f->lost : &f->handed);
    else if (strcmp(status, "running") != 0)
        demo_failf(d, "the %s ended as \"%s\": %s", json_get_text(operation, "kind"), status,
                   json_get_text(yyjson_obj_get(operation, "error"), "message"));
}

/* ---- the beginning ---- */

static void on_shard(struct demo *d, const struct err *err, yyjson_val *root)
{
    struct demo_failover *f = &d->failover;
    yyjson_val *range = yyjson_arr_get_first(yyjson_obj_get(root, "ranges"));
    struct err local = {0};
    if (demo_now(d) != DEMO_FAILOVER)
        return;
    if (err != NULL)
        demo_fail(d, err);
    else if (!text_to_int64(json_get_text(range, "lo"), &f->range.lo) ||
             !text_to_int64(json_get_text(range, "hi"), &f->range.hi))
        demo_failf(d, "the manager does not say what shard " SHARD " owns");
    else if (load_watch(d->load, &f->range, &local) != 0)
        demo_fail(d, &local);
    else
        loop_timer_start(&d->wait, LOOK_NS);
}

void demo_enter_failover(struct demo *d)
{
    demo_api(d, "GET", "/v1/databases/shop/shards/" SHARD, NULL, on_shard);
}

void demo_failover_init(struct demo *d)
{
    const struct demo_change unknown = {(double)NAN, (double)NAN, (double)NAN};
    d->failover.lost = d->failover.handed = unknown;
}
