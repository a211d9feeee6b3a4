/* shardherd switchover, failover, maintenance: what a person does about the primary of a shard. */
#include <string.h>

#include "base/mem.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/resource.h"

#define LOOK_NS (200 * ENV_NS_PER_MS)

struct switched {
    char database[SESSION_NAME_SIZE], shard[SESSION_NAME_SIZE];
    char *from;   /* who was the primary */
    char *before; /* the change of primaries before this one, "" = none */
};

static void path_of(const struct switched *w, struct buf *path)
{
    buf_add_text(path, "/v1/databases/");
    session_escape(path, w->database);
    buf_add_text(path, "/shards/");
    session_escape(path, w->shard);
}

static const char *primary_of(yyjson_val *shard)
{
    return json_get_text(yyjson_obj_get(shard, "instance"), "name");
}

/* verb: "/switchover"; more is added to the query. */
static int ask(struct session *s, const struct switched *w, const char *verb, const char *more,
               struct session_reply *ret)
{
    const char *to = args_value(s->args, "to");
    struct buf path = {0};
    path_of(w, &path);
    buf_add_text(&path, verb);
    buf_add_text(&path, more);
    if (to != NULL) {
        buf_add_text(&path, more[0] != '\0' ? "&to=" : "?to=");
        session_escape(&path, session_bare(to, "instance"));
    }
    const struct session_request request = {
        .port = PORT_ADMIN_API, .method = "POST", .path = buf_text(&path)};
    int rc = session_call(s, &request, ret);
    buf_free(&path);
    return rc;
}

static void report(struct session *s, const struct switched *w, yyjson_val *shard, const char *what)
{
    struct buf text = {0};
    if (session_is_document(s)) {
        session_print(s, shard);
        return;
    }
    buf_printf(&text, "shard/%s/%s%s\n", w->database, w->shard, s->format == FORMAT_NAME ? "" : what);
    session_out(s, &text);
    buf_free(&text);
}

static void report_end(struct session *s, const struct switched *w, yyjson_val *shard)
{
    struct buf what = {0};
    buf_printf(&what, ": %s is the primary, it was %s", primary_of(shard), w->from);
    report(s, w, shard, buf_text(&what));
    buf_free(&what);
}

/* The keeper stands again, and it is the same one: it was given up. */
static bool given_up(const struct switched *w, yyjson_val *shard)
{
    yyjson_val *keeper = yyjson_obj_get(shard, "keeper");
    const char *last = json_get_text(yyjson_obj_get(keeper, "last"), "id");
    return strcmp(json_get_text(keeper, "state"), "standing") == 0 && strcmp(last, w->before) != 0 &&
           strcmp(primary_of(shard), w->from) == 0 &&
           strcmp(json_get_text(yyjson_obj_get(keeper, "last"), "state"), "canceled") == 0;
}

static int follow(struct session *s, const struct switched *w)
{
    uint64_t deadline = progress_deadline(s);
    struct buf path = {0};
    int rc = CLI_TIMEOUT;
    path_of(w, &path);
    while (rc == CLI_TIMEOUT && loop_clock(&s->loop) < deadline) {
        struct session_reply reply;
        bool read = session_get(s, buf_text(&path), &reply) == CLI_OK;
        const char *primary = primary_of(reply.root);
        if (read && primary[0] != '\0' && strcmp(primary, w->from) != 0) {
            report_end(s, w, reply.root);
            rc = CLI_OK;
        } else if (read && given_up(w, reply.root))
            rc = session_fail(s, CLI_CONFLICT, "shard %s: it was given up, %s is the primary still", w->shard,
                              w->from);
        session_reply_free(&reply);
        if (rc == CLI_TIMEOUT)
            session_pause(s, LOOK_NS);
    }
    if (rc == CLI_TIMEOUT)
        session_fail(s, rc, "shard %s: %s is the primary still", w->shard, w->from);
    buf_free(&path);
    return rc;
}

static int change(struct session *s, struct switched *w, const char *verb, const char *more,
                  const char *began)
{
    struct session_reply reply;
    int rc = ask(s, w, verb, more, &reply);
    if (rc == CLI_OK) {
        yyjson_val *last = json_get_path(reply.root, "keeper.last");
        w->from = mem_strdup(primary_of(reply.root));
        w->before = mem_strdup(json_get_text(last, "id"));
        if (args_has(s->args, "wait"))
            rc = follow(s, w);
        else
            report(s, w, reply.root, began);
    }
    session_reply_free(&reply);
    free(w->from);
    free(w->before);
    return rc;
}

int command_switchover(struct session *s)
{
    struct switched w = {0};
    int rc = session_shard(s, s->args->words[0], w.database, w.shard);
    return rc != CLI_OK ? rc : change(s, &w, "/switchover", "", ": the switchover began");
}

int command_failover(struct session *s)
{
    struct switched w = {0};
    const char *confirm = args_value(s->args, "confirm");
    bool loses = args_has(s->args, "allow-data-loss");
    int rc = session_shard(s, s->args->words[0], w.database, w.shard);
    if (rc != CLI_OK)
        return rc;
    if (args_value(s->args, "to") == NULL)
        return session_fail(s, CLI_USAGE,
                            "which instance is to be the primary? --to=INSTANCE; see: shardherd "
                            "get instances -o wide");
    if (loses && (confirm == NULL || strcmp(confirm, w.shard) != 0))
        return session_fail(s, CLI_USAGE,
                            "writes of shard %s that were acknowledged may be lost by this; without "
                            "--allow-data-loss it says which; if it is meant: --confirm=%s",
                            w.shard, w.shard);
    return change(s, &w, "/failover", loses ? "?allowDataLoss=true" : "", ": the failover began");
}

/* ---- maintenance ---- */

static int wait_maintained(struct session *s, const struct switched *w, bool on)
{
    uint64_t deadline = progress_deadline(s);
    struct buf path = {0};
    int rc = CLI_TIMEOUT;
    path_of(w, &path);
    while (rc == CLI_TIMEOUT && loop_clock(&s->loop) < deadline) {
        struct session_reply reply;
        yyjson_val *now = session_get(s, buf_text(&path), &reply) == CLI_OK
                              ? json_get_path(reply.root, "keeper.maintenance")
                              : NULL;
        if (now != NULL && yyjson_get_bool(now) == on) {
            report(s, w, reply.root, on ? ": in maintenance, nothing is decided" : ": not in maintenance");
            rc = CLI_OK;
        }
        session_reply_free(&reply);
        if (rc == CLI_TIMEOUT)
            session_pause(s, LOOK_NS);
    }
    if (rc == CLI_TIMEOUT)
        session_fail(s, rc, "shard %s: it could not be written down yet", w->shard);
    buf_free(&path);
    return rc;
}

int command_maintenance(struct session *s)
{
    struct switched w = {0};
    struct session_reply reply;
    const char *word = s->args->words[1];
    bool on = strcmp(word, "on") == 0;
    int rc = session_shard(s, s->args->words[0], w.database, w.shard);
    if (rc != CLI_OK)
        return rc;
    if (!on && strcmp(word, "off") != 0)
        return session_fail(s, CLI_USAGE, "maintenance is on or off, not %s", word);
    rc = ask(s, &w, "/maintenance", on ? "?on=true" : "?on=false", &reply);
    session_reply_free(&reply);
    return rc != CLI_OK ? rc : wait_maintained(s, &w, on);
}
