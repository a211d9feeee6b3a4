/* shardherd wait: until an operation ended, or a database is ready or gone. */
#include <string.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "cli/resource.h"

#define LOOK_NS (300 * ENV_NS_PER_MS)

/* Provisioned, every shard serving on a primary that is up; *why says what is missing. */
static bool is_ready(struct session *s, const char *name, struct buf *why)
{
    struct session_reply reply;
    struct buf path = {0};
    yyjson_doc *shards = NULL;
    size_t i, max, bad = 0;
    yyjson_val *shard;
    buf_reset(why);
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, name);
    int rc = session_get(s, buf_text(&path), &reply);
    const char *status = json_get_text(reply.root, "status");
    if (rc != CLI_OK || strcmp(status, "provisioned") != 0)
        buf_printf(why,
                   rc == CLI_NOT_FOUND ? "it does not exist"
                   : rc != CLI_OK      ? "the manager does not answer"
                                       : "it is %s",
                   status);
    buf_add_text(&path, "/shards");
    if (why->length == 0 && session_list(s, buf_text(&path), &shards) != CLI_OK)
        buf_add_text(why, "the manager does not answer");
    yyjson_val *items = yyjson_obj_get(yyjson_doc_get_root(shards), "items");
    yyjson_arr_foreach(items, i, max, shard)
    {
        bad += strcmp(json_get_text(yyjson_obj_get(shard, "instance"), "health"), "up") != 0;
    }
    if (why->length == 0 && bad > 0)
        buf_printf(why, "%zu of %zu primaries are not up", bad, yyjson_arr_size(items));
    yyjson_doc_free(shards);
    session_reply_free(&reply);
    buf_free(&path);
    return why->length == 0;
}

static bool is_gone(struct session *s, const char *name, struct buf *why)
{
    struct session_reply reply;
    struct buf path = {0};
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, name);
    int rc = session_get(s, buf_text(&path), &reply);
    session_reply_free(&reply);
    bool gone = rc == CLI_NOT_FOUND;
    if (gone) { /* one that has just started knows no database yet */
        gone = session_get(s, "/readyz", &reply) == CLI_OK;
        session_reply_free(&reply);
    }
    buf_reset(why);
    buf_add_text(why, rc == CLI_OK ? "it is still there" : "the manager is not ready");
    buf_free(&path);
    return gone;
}

typedef bool (*condition_cb)(struct session *s, const char *name, struct buf *why);

static int wait_for(struct session *s, const char *name, condition_cb holds, const char *word)
{
    uint64_t deadline = progress_deadline(s), timeout = s->timeout_ns;
    struct buf why = {0}, text = {0};
    bool met = false;
    s->silent = true; /* that it is not there yet is no error */
    s->timeout_ns = 0;
    while (!(met = holds(s, name, &why)) && loop_clock(&s->loop) < deadline)
        session_pause(s, LOOK_NS);
    s->silent = false;
    s->timeout_ns = timeout;
    buf_printf(&text, "database/%s %s\n", name, word);
    if (met)
        session_out(s, &text);
    else
        session_fail(s, CLI_TIMEOUT, "database %s is not %s: %s", name, word, buf_text(&why));
    buf_free(&text);
    buf_free(&why);
    return met ? CLI_OK : CLI_TIMEOUT;
}

static int wait_operation(struct session *s, const char *id)
{
    struct session_reply end;
    int rc = progress_follow(s, id, &end);
    if (rc == CLI_OK) {
        rc = progress_exit(end.root);
        if (session_is_document(s))
            session_print(s, end.root);
        else {
            struct buf text = {0};
            buf_printf(&text, "operation/%s %s\n", id, json_get_text(end.root, "status"));
            command_findings(end.root, &text);
            session_out(s, &text);
            buf_free(&text);
        }
        const char *message = json_get_text(yyjson_obj_get(end.root, "error"), "message");
        if (rc != CLI_OK && message[0] != '\0')
            session_fail(s, rc, "%s", message);
    }
    session_reply_free(&end);
    return rc;
}

int command_wait(struct session *s)
{
    const char *name = NULL, *condition = args_value(s->args, "for");
    const struct resource *r = resource_split(s, s->args->words[0], &name);
    if (r == NULL)
        return CLI_USAGE;
    if (name == NULL)
        name = s->args->word_count > 1 ? s->args->words[1] : NULL;
    if (name == NULL)
        return session_fail(s, CLI_USAGE, "name one %s; see: shardherd get %ss", r->kind, r->kind);
    if (strcmp(r->kind, "operation") == 0 && (condition == NULL || strcmp(condition, "done") == 0))
        return wait_operation(s, session_bare(name, "operation"));
    if (strcmp(r->kind, "database") == 0 && (condition == NULL || strcmp(condition, "ready") == 0))
        return wait_for(s, name, is_ready, "ready");
    if (strcmp(r->kind, "database") == 0 && strcmp(condition, "deleted") == 0)
        return wait_for(s, name, is_gone, "deleted");
    return session_fail(s, CLI_USAGE,
                        "wait for: operation ID, database NAME --for=ready, database NAME --for=deleted");
}
