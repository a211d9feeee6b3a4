/*
 * shardherd restart: all instances of a shard, one after the other, the primary last.
 *
 * Each step waits for what the manager says: all standbys stream, then the next one is stopped; the primary
 * is switched over first, and then is a standby like the others. The manager refuses to stop one while
 * another is away, so that two people who do this at once do no harm.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/command.h"
#include "cli/progress.h"

#define LOOK_NS     (200 * ENV_NS_PER_MS)
#define MEMBERS_MAX 16

struct restarting {
    struct session *s;
    char database[SESSION_NAME_SIZE], shard[SESSION_NAME_SIZE];
    uint64_t deadline;
    unsigned count;
    char *names[MEMBERS_MAX]; /* in the order of their restarts */
};

/* What is known of its members: {"items": [...]}, also of other shards. */
static int look(struct restarting *r, yyjson_doc **ret)
{
    struct buf path = {0};
    buf_add_text(&path, "/v1/instances?database=");
    session_escape(&path, r->database);
    int rc = session_list(r->s, buf_text(&path), ret);
    buf_free(&path);
    return rc;
}

/* The next member of the shard from *at on, NULL = there is none. */
static yyjson_val *next_member(const struct restarting *r, yyjson_doc *doc, size_t *at)
{
    yyjson_val *items = yyjson_obj_get(yyjson_doc_get_root(doc), "items");
    while (*at < yyjson_arr_size(items)) {
        yyjson_val *item = yyjson_arr_get(items, (*at)++);
        if (strcmp(json_get_text(item, "shard"), r->shard) == 0 &&
            yyjson_is_obj(yyjson_obj_get(item, "member")))
            return item;
    }
    return NULL;
}

static bool flag(yyjson_val *item, const char *path)
{
    return yyjson_get_bool(json_get_path(item, path));
}

/* One primary, and all others stream from it. */
static bool is_whole(const struct restarting *r, yyjson_doc *doc)
{
    unsigned primaries = 0, standbys = 0;
    size_t at = 0;
    for (yyjson_val *item = next_member(r, doc, &at); item != NULL; item = next_member(r, doc, &at)) {
        primaries += flag(item, "member.primary") && strcmp(json_get_text(item, "health"), "up") == 0;
        standbys += !flag(item, "member.primary") && flag(item, "member.streams") &&
                    strcmp(json_get_text(yyjson_obj_get(item, "member"), "reported"), "standby") == 0;
    }
    return primaries == 1 && primaries + standbys == r->count;
}

static yyjson_val *member_named(const struct restarting *r, yyjson_doc *doc, const char *name)
{
    size_t at = 0;
    yyjson_val *item = next_member(r, doc, &at);
    while (item != NULL && strcmp(json_get_text(item, "name"), name) != 0)
        item = next_member(r, doc, &at);
    return item;
}

/* Until all stream and this one (NULL: nobody) was started after `since`; *ret is to be freed. */
static int wait_whole(struct restarting *r, const char *name, int64_t since, yyjson_doc **ret)
{
    while (loop_clock(&r->s->loop) < r->deadline) {
        yyjson_doc *doc = NULL;
        int rc = look(r, &doc);
        if (rc != CLI_OK)
            return rc;
        bool again = name == NULL || json_get_time(member_named(r, doc, name), "started") > since;
        if (again && is_whole(r, doc)) {
            *ret = doc;
            return CLI_OK;
        }
        yyjson_doc_free(doc);
        session_pause(r->s, LOOK_NS);
    }
    return session_fail(r->s, CLI_TIMEOUT, "shard %s: not all of its instances stream", r->shard);
}

static int post(struct restarting *r, struct buf *path)
{
    struct session_reply reply;
    const struct session_request request = {.port = PORT_ADMIN_API, .method = "POST", .path = buf_text(path)};
    int rc = session_call(r->s, &request, &reply);
    session_reply_free(&reply);
    buf_free(path);
    return rc;
}

static int stop(struct restarting *r, const char *name)
{
    struct buf path = {0};
    buf_add_text(&path, "/v1/instances/");
    session_escape(&path, name);
    buf_add_text(&path, "/restart");
    return post(r, &path);
}

static int switch_over(struct restarting *r)
{
    struct buf path = {0};
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, r->database);
    buf_add_text(&path, "/shards/");
    session_escape(&path, r->shard);
    buf_add_text(&path, "/switchover");
    return post(r, &path);
}

/* Until all stream and this one is no primary, for which it is switched over once; *ret is to be freed. */
static int hand_over(struct restarting *r, const char *name, yyjson_doc **ret)
{
    for (bool asked = false;; asked = true) {
        yyjson_doc *doc = NULL;
        int rc = wait_whole(r, NULL, 0, &doc);
        if (rc == CLI_OK && !flag(member_named(r, doc, name), "member.primary")) {
            *ret = doc;
            return CLI_OK;
        }
        yyjson_doc_free(doc);
        if (rc == CLI_OK && !asked)
            rc = switch_over(r);
        if (rc != CLI_OK)
            return rc;
        session_pause(r->s, LOOK_NS);
    }
}

static int restart(struct restarting *r, const char *name)
{
    yyjson_doc *before = NULL, *after = NULL;
    int rc = hand_over(r, name, &before);
    if (rc != CLI_OK)
        return rc;
    yyjson_val *was = member_named(r, before, name);
    rc = stop(r, name);
    if (rc == CLI_OK)
        rc = wait_whole(r, name, json_get_time(was, "started"), &after);
    if (rc == CLI_OK)
        session_say(r->s, "instance/%s restarted: PostgreSQL %s, it was %s", name,
                    json_get_text(member_named(r, after, name), "version"), json_get_text(was, "version"));
    yyjson_doc_free(before);
    yyjson_doc_free(after);
    return rc;
}

/* The primary comes last. */
static int plan(struct restarting *r)
{
    yyjson_doc *doc = NULL;
    int rc = look(r, &doc);
    for (int primary = 0; rc == CLI_OK && primary < 2; primary++) {
        size_t at = 0;
        for (yyjson_val *item = next_member(r, doc, &at); item != NULL; item = next_member(r, doc, &at))
            if (flag(item, "member.primary") == (primary == 1) && r->count < MEMBERS_MAX)
                r->names[r->count++] = mem_strdup(json_get_text(item, "name"));
    }
    if (rc == CLI_OK && r->count < 2)
        rc = session_fail(r->s, CLI_USAGE, "shard %s has no standbys: its server is restarted by itself",
                          r->shard);
    yyjson_doc_free(doc);
    return rc;
}

int command_restart(struct session *s)
{
    struct restarting r = {.s = s, .deadline = progress_deadline(s)};
    int rc = session_shard(s, s->args->words[0], r.database, r.shard);
    if (rc == CLI_OK)
        rc = plan(&r);
    for (unsigned i = 0; rc == CLI_OK && i < r.count; i++)
        rc = restart(&r, r.names[i]);
    for (unsigned i = 0; i < r.count; i++)
        free(r.names[i]);
    return rc;
}
