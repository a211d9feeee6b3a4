#include "manager/guard_watch.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/link.h"

#define FIRST_NS   ENV_NS_PER_S
#define TIMEOUT_NS (30 * ENV_NS_PER_S)

/* lock_timeout: a table that somebody locks is looked at another time */
#define SQL                                                                                                  \
    "SET lock_timeout = '1s'; SET statement_timeout = '20s'; "                                               \
    "SELECT subject, finding, remedy, json_build_object('subject', subject, 'finding', finding, 'remedy', "  \
    "remedy) FROM shardherd.check_guards() ORDER BY 1, 2 LIMIT 50"

/*
 *   IDLE --timer--> (next shard) --link--> ASKING --answer--> CLOSING --closed--> (next shard)
 *     ^                  |                                                            |
 *     +--none is left----+------------------------------------------------------------+
 */
struct watched_guards {
    struct list node; /* in guard_watch.shards */
    char *database, *shard;
    struct buf findings;
    int64_t checked_us;
    unsigned count;
    bool present, due; /* in this round */
};

struct guard_watch {
    struct loop *loop;
    struct fleet *fleet;
    uint64_t period_ns;
    struct list shards;
    struct loop_timer timer;
    struct link link;
    struct watched_guards *asked; /* NULL: no connection */
    int open;
    struct loop_task next;
    bool answered, gone; /* the statement, the connection; both: the next one */
    bool busy;           /* a round is under way */
    bool stopping;
    void (*closed)(void *data);
    void *data;
};

static struct watched_guards *find(const struct guard_watch *w, const char *database, const char *shard)
{
    list_each(node, &w->shards)
    {
        struct watched_guards *g = list_item(node, struct watched_guards, node);
        if (strcmp(g->shard, shard) == 0 && strcmp(g->database, database) == 0)
            return g;
    }
    return NULL;
}

static void forget(struct watched_guards *g)
{
    list_remove(&g->node);
    buf_free(&g->findings);
    free(g->database);
    free(g->shard);
    free(g);
}

static void note(struct guard_watch *w, const char *database, const char *shard)
{
    struct watched_guards *g = find(w, database, shard);
    if (g == NULL) {
        g = mem_zalloc(sizeof *g);
        g->database = mem_strdup(database);
        g->shard = mem_strdup(shard);
        list_append(&w->shards, &g->node);
    }
    g->present = g->due = true;
}

/* All shards of the routing tables are due; those that are in none are forgotten. */
static void gather(struct guard_watch *w)
{
    list_each(node, &w->shards)
    {
        list_item(node, struct watched_guards, node)->present = false;
    }
    list_each(node, &w->fleet->databases)
    {
        const struct fleet_database *db = list_item(node, struct fleet_database, node);
        for (size_t i = 0; db->routing != NULL && i < db->routing->shard_count; i++)
            note(w, db->name, db->routing->shards[i].name);
    }
    list_each(node, &w->shards)
    {
        struct watched_guards *g = list_item(node, struct watched_guards, node);
        if (!g->present)
            forget(g);
    }
}

/* ---- an answer ---- */

static bool known(const struct watched_guards *g, const char *finding)
{
    return g->findings.length > 0 && strstr(buf_text(&g->findings), finding) != NULL;
}

static void take(struct guard_watch *w, struct watched_guards *g, const struct pg_reply *reply)
{
    struct buf found = {0};
    int rows = pg_rows(reply);
    buf_addc(&found, '[');
    for (int r = 0; r < rows; r++) {
        const char *json = pg_value(reply, r, 3);
        buf_printf(&found, "%s%s", r > 0 ? "," : "", json);
        if (!known(g, json))
            log_event(LOG_WARN, "guards", "db", g->database, "shard", g->shard, "subject",
                      pg_value(reply, r, 0), "finding", pg_value(reply, r, 1), "remedy",
                      pg_value(reply, r, 2), NULL);
    }
    buf_addc(&found, ']');
    if (g->count > 0 && rows == 0)
        log_event(LOG_INFO, "guards are in order again", "db", g->database, "shard", g->shard, NULL);
    buf_free(&g->findings);
    g->findings = found;
    g->count = (unsigned)rows;
    g->checked_us = loop_wall(w->loop);
}

static void ask_next(struct loop_task *task, void *data);

/* The next shard is asked from the loop, not from inside a callback of the link that it uses. */
static void maybe_over(struct guard_watch *w)
{
    if (!w->answered || !w->gone)
        return;
    instance_access_clear(&w->link.access);
    w->asked = NULL;
    loop_defer(w->loop, &w->next);
}

static void on_link_closed(void *data)
{
    struct guard_watch *w = data;
    w->gone = true;
    maybe_over(w);
}

static void on_answer(const struct pg_reply *reply, void *data)
{
    struct guard_watch *w = data;
    struct watched_guards *g = w->asked;
    if (reply->err == NULL)
        take(w, g, reply);
    else if (!w->stopping)
        log_event(LOG_DEBUG, "guards not looked at", "db", g->database, "shard", g->shard, "err",
                  reply->err->message, NULL);
    w->answered = true;
    if (w->gone)
        maybe_over(w);
    else
        link_drop(&w->link); /* on_link_closed() follows */
}

/* ---- the round ---- */

static void ask(struct guard_watch *w, struct watched_guards *g, const struct fleet_instance *primary)
{
    w->asked = g;
    w->answered = w->gone = false;
    link_init(&w->link, w->loop, &primary->access, "shardherd guards", &w->open, on_link_closed, w);
    link_exec(&w->link, SQL, TIMEOUT_NS, on_answer, w);
}

static void finish(struct guard_watch *w)
{
    list_each(node, &w->shards)
    {
        forget(list_item(node, struct watched_guards, node));
    }
    void (*closed)(void *) = w->closed;
    void *data = w->data;
    free(w);
    if (closed != NULL)
        closed(data);
}

static void ask_next(struct loop_task *task, void *data)
{
    struct guard_watch *w = data;
    (void)task;
    w->busy = true;
    if (w->stopping) {
        finish(w);
        return;
    }
    list_each(node, &w->shards)
    {
        struct watched_guards *g = list_item(node, struct watched_guards, node);
        const struct fleet_instance *primary = g->due ? fleet_primary(w->fleet, g->database, g->shard) : NULL;
        g->due = false;
        if (primary != NULL && primary->facts.health != HEALTH_DOWN) {
            ask(w, g, primary);
            return;
        }
    }
    w->busy = false;
    loop_timer_start(&w->timer, w->period_ns);
}

static void round_begins(struct loop_timer *timer, void *data)
{
    struct guard_watch *w = data;
    (void)timer;
    gather(w);
    ask_next(NULL, w);
}

/* ---- life ---- */

struct guard_watch *guard_watch_start(struct loop *loop, struct fleet *fleet, uint64_t period_ns)
{
    struct guard_watch *w = mem_zalloc(sizeof *w);
    w->loop = loop;
    w->fleet = fleet;
    w->period_ns = period_ns;
    list_init(&w->shards);
    w->next = (struct loop_task){.run = ask_next, .data = w};
    loop_timer_init(loop, &w->timer, round_begins, w);
    if (period_ns > 0)
        loop_timer_start(&w->timer, FIRST_NS);
    return w;
}

void guard_watch_stop(struct guard_watch *w, void (*closed)(void *data), void *data)
{
    w->stopping = true;
    w->closed = closed;
    w->data = data;
    loop_timer_stop(&w->timer);
    if (!w->busy)
        finish(w);
    else if (w->asked != NULL)
        link_drop(&w->link);
}

bool guard_watch_get(const struct guard_watch *w, const char *database, const char *shard,
                     struct guard_state *ret)
{
    struct watched_guards *g = find(w, database, shard);
    if (g == NULL || g->checked_us == 0)
        return false;
    *ret = (struct guard_state){g->checked_us, g->count, buf_text(&g->findings)};
    return true;
}
