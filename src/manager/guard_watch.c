#include "manager/guard_watch.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/link.h"

#define FIRST_NS   ENV_NS_PER_S
#define TIMEOUT_NS (30 * ENV_NS_PER_S)

#define QUESTION "SELECT shardherd.guards_differ()"

/* lock_timeout: a table that somebody locks is looked at another time */
#define SQL                                                                                                  \
    "SET lock_timeout = '1s'; SET statement_timeout = '20s'; "                                               \
    "SELECT subject, finding, remedy, json_build_object('subject', subject, 'finding', finding, 'remedy', "  \
    "remedy) FROM shardherd.check_guards() ORDER BY 1, 2 LIMIT 50"

/*
 *   IDLE --timer--> ASKING --all have answered--> (next shard) --link--> LOOKING --> CLOSING --> (next shard)
 *     ^                                                |
 *     +------------------none is left------------------+
 *
 * ASKING  waits for the answers to the question, of all shards at the same time. LOOKING  waits for the
 * answer of one shard, CLOSING  for its connection to be gone.
 */
struct watched_guards {
    struct list node; /* in guard_watch.shards */
    struct guard_watch *watch;
    char *database, *shard;
    struct poll_question *question; /* under way, or NULL */
    struct buf findings;
    int64_t checked_us;
    unsigned count;
    bool present;
    bool due; /* in this round: to be asked, then to be looked at */
};

struct guard_watch {
    struct loop *loop;
    struct fleet *fleet;
    struct pollers *pollers;
    uint64_t period_ns;
    struct list shards;
    struct loop_timer timer;
    unsigned questions; /* under way */
    struct link link;
    struct watched_guards *looked; /* NULL: no connection */
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
        g->watch = w;
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

/* findings: taken over. */
static void settle(struct watched_guards *g, struct buf *findings, unsigned count)
{
    if (g->count > 0 && count == 0)
        log_event(LOG_INFO, "guards are in order again", "db", g->database, "shard", g->shard, NULL);
    buf_free(&g->findings);
    g->findings = *findings;
    g->count = count;
    g->checked_us = loop_wall(g->watch->loop);
}

static void take(struct watched_guards *g, const struct pg_reply *reply)
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
    settle(g, &found, (unsigned)rows);
}

static void not_looked_at(const struct watched_guards *g, const struct err *err)
{
    log_event(LOG_DEBUG, "guards not looked at", "db", g->database, "shard", g->shard, "err", err->message,
              NULL);
}

static void look_next(struct loop_task *task, void *data);

/* The next shard is looked at from the loop, not from inside a callback of the link that it uses. */
static void maybe_over(struct guard_watch *w)
{
    if (!w->answered || !w->gone)
        return;
    instance_access_clear(&w->link.access);
    w->looked = NULL;
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
    if (reply->err == NULL)
        take(w->looked, reply);
    else if (!w->stopping)
        not_looked_at(w->looked, reply->err);
    w->answered = true;
    if (w->gone)
        maybe_over(w);
    else
        link_drop(&w->link); /* on_link_closed() follows */
}

/* ---- the look ---- */

static const struct fleet_instance *primary_of(const struct guard_watch *w, const struct watched_guards *g)
{
    const struct fleet_instance *primary = fleet_primary(w->fleet, g->database, g->shard);
    return primary != NULL && primary->facts.health != HEALTH_DOWN ? primary : NULL;
}

static void look_at(struct guard_watch *w, struct watched_guards *g, const struct fleet_instance *primary)
{
    w->looked = g;
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

static void look_next(struct loop_task *task, void *data)
{
    struct guard_watch *w = data;
    (void)task;
    if (w->stopping) {
        finish(w);
        return;
    }
    list_each(node, &w->shards)
    {
        struct watched_guards *g = list_item(node, struct watched_guards, node);
        const struct fleet_instance *primary = g->due ? primary_of(w, g) : NULL;
        g->due = false;
        if (primary != NULL) {
            look_at(w, g, primary);
            return;
        }
    }
    w->busy = false;
    loop_timer_start(&w->timer, w->period_ns);
}

/* ---- the question ---- */

/*
 * What cannot be said quickly (an older version of the functions, a table that somebody locks) is looked at.
 * A server that does not answer its polls is not: it would not answer that either.
 */
static void on_question(const struct pg_reply *reply, void *data)
{
    struct watched_guards *g = data;
    struct guard_watch *w = g->watch;
    struct buf none = {0};
    const char *differ = reply->err == NULL ? pg_value(reply, 0, 0) : NULL;
    g->question = NULL;
    g->due = reply->err == NULL || reply->err->code == ERRC_SQL;
    if (!g->due)
        not_looked_at(g, reply->err);
    else if (differ != NULL && strcmp(differ, "f") == 0) {
        g->due = false;
        buf_add_text(&none, "[]");
        settle(g, &none, 0);
    }
    if (--w->questions == 0)
        loop_defer(w->loop, &w->next);
}

static void round_begins(struct loop_timer *timer, void *data)
{
    struct guard_watch *w = data;
    (void)timer;
    w->busy = true;
    gather(w);
    list_each(node, &w->shards)
    {
        struct watched_guards *g = list_item(node, struct watched_guards, node);
        const struct fleet_instance *primary = primary_of(w, g);
        g->question = primary != NULL ? pollers_ask(w->pollers, primary, QUESTION, on_question, g) : NULL;
        w->questions += g->question != NULL;
    }
    if (w->questions == 0)
        loop_defer(w->loop, &w->next);
}

static void forget_questions(struct guard_watch *w)
{
    list_each(node, &w->shards)
    {
        struct watched_guards *g = list_item(node, struct watched_guards, node);
        if (g->question != NULL)
            poll_question_forget(g->question);
        g->question = NULL;
    }
    w->questions = 0;
}

/* ---- life ---- */

struct guard_watch *guard_watch_start(struct loop *loop, struct fleet *fleet, struct pollers *pollers,
                                      uint64_t period_ns)
{
    struct guard_watch *w = mem_zalloc(sizeof *w);
    w->loop = loop;
    w->fleet = fleet;
    w->pollers = pollers;
    w->period_ns = period_ns;
    list_init(&w->shards);
    w->next = (struct loop_task){.run = look_next, .data = w};
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
    else if (w->looked != NULL)
        link_drop(&w->link);
    else {
        forget_questions(w);
        loop_defer(w->loop, &w->next);
    }
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
