/* shardherd switchover: another primary for a shard, on purpose. */
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

static int ask(struct session *s, const struct switched *w, struct session_reply *ret)
{
    const char *to = args_value(s->args, "to");
    struct buf path = {0};
    path_of(w, &path);
    buf_add_text(&path, "/switchover");
    if (to != NULL) {
        buf_add_text(&path, "?to=");
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
            rc = session_fail(s, CLI_CONFLICT,
                              "shard %s: the switchover was given up, %s is the primary still", w->shard,
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

int command_switchover(struct session *s)
{
    struct switched w = {0};
    struct session_reply reply;
    int rc = session_shard(s, s->args->words[0], w.database, w.shard);
    if (rc != CLI_OK)
        return rc;
    rc = ask(s, &w, &reply);
    if (rc == CLI_OK) {
        yyjson_val *last = json_get_path(reply.root, "keeper.last");
        w.from = mem_strdup(primary_of(reply.root));
        w.before = mem_strdup(json_get_text(last, "id"));
        if (args_has(s->args, "wait"))
            rc = follow(s, &w);
        else
            report(s, &w, reply.root, ": the switchover began");
    }
    session_reply_free(&reply);
    free(w.from);
    free(w.before);
    return rc;
}
