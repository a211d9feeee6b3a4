/* The commands that change something: apply, delete, split, move, merge, drain, upgrade, isolate, rebalance,
 * cancel, rollback; and wait. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/human.h"
#include "cli/progress.h"
#include "cli/resource.h"
#include "cli/feed.h"
#include "fleet/fleet.h"
#include "manager/config.h"

/* ---- what follows ---- */

/* Following ends with it: "done", "undone", "failed", or "stopped" while it waits for a person. */
static const char *last_word(yyjson_val *op)
{
    const char *status = json_get_text(op, "status");
    return strcmp(status, "running") == 0 ? json_get_text(op, "state") : status;
}

static void print_ended(struct session *s, yyjson_val *op)
{
    struct buf text = {0}, what = {0};
    char took[HUMAN_SIZE], block[HUMAN_SIZE];
    struct bar_facts f;
    const char *status = last_word(op);
    bool dry = yyjson_get_bool(json_get_path(op, "record.dry_run"));
    progress_what(op, &what);
    progress_facts(op, 0, NULL, &f);
    buf_printf(&text, "operation/%s %s: %s", json_get_text(op, "id"), status, buf_text(&what));
    if (dry && strcmp(status, "done") == 0)
        buf_printf(&text, " (dry run: %s)",
                   yyjson_arr_size(yyjson_obj_get(op, "findings")) == 0 ? "nothing is in the way"
                                                                        : "nothing forbids it");
    else if (dry)
        buf_add_text(&text, " (dry run)");
    if (f.elapsed_seconds >= 0)
        buf_printf(&text, " in %s", human_duration(f.elapsed_seconds, took));
    if (f.block_seconds > 0)
        buf_printf(&text, ", writes blocked for %s", human_duration(f.block_seconds, block));
    buf_addc(&text, '\n');
    command_plan(op, &text);
    command_findings(op, &text);
    if (strcmp(status, "done") != 0 || dry)
        command_migrated(op, &text);
    session_out(s, &text);
    buf_free(&text);
    buf_free(&what);
}

static int report_end(struct session *s, yyjson_val *op)
{
    int rc = progress_exit(op);
    if (session_is_document(s))
        session_print(s, op);
    else if (s->format == FORMAT_NAME) {
        struct buf text = {0};
        buf_printf(&text, "operation/%s\n", json_get_text(op, "id"));
        session_out(s, &text);
        buf_free(&text);
    } else
        print_ended(s, op);
    if (rc != CLI_OK) {
        yyjson_val *error = yyjson_obj_get(op, "error");
        session_fail(s, rc, "operation %s ended as %s%s%s", json_get_text(op, "id"), last_word(op),
                     yyjson_is_obj(error) ? ": " : "", json_get_text(error, "message"));
    }
    return rc;
}

static int follow_to_end(struct session *s, const char *id)
{
    struct session_reply end;
    int rc = progress_follow(s, id, &end);
    if (rc == CLI_OK)
        rc = report_end(s, end.root);
    session_reply_free(&end);
    return rc;
}

int command_began(struct session *s, struct session_reply *reply, bool wait)
{
    char *id = mem_strdup(json_get_text(reply->root, "id"));
    struct buf text = {0}, what = {0};
    int rc = CLI_OK;
    progress_what(reply->root, &what);
    if (wait) {
        session_reply_free(reply);
        rc = follow_to_end(s, id);
    } else if (session_is_document(s))
        session_print(s, reply->root);
    else {
        bool bare = s->format == FORMAT_NAME;
        buf_printf(&text, "operation/%s%s%s\n", id, bare ? "" : " started: ", bare ? "" : buf_text(&what));
        session_out(s, &text);
    }
    if (!wait)
        session_reply_free(reply);
    buf_free(&text);
    buf_free(&what);
    free(id);
    return rc;
}

/* ---- apply ---- */

int command_read_file(const struct session *s, const char *path, char **ret, size_t *ret_length)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "re");
    if (f == NULL)
        return session_fail(s, CLI_USAGE, "%s: %s", path, strerror(errno));
    char *text = mem_alloc(COMMAND_FILE_MAX + 1);
    size_t length = fread(text, 1, COMMAND_FILE_MAX + 1, f);
    int wrong = ferror(f) ? errno : 0;
    if (!standard)
        fclose(f);
    if (wrong != 0 || length > COMMAND_FILE_MAX) {
        free(text);
        return session_fail(s, CLI_USAGE, "%s: %s", path, wrong != 0 ? strerror(wrong) : "larger than 1 MiB");
    }
    text[length] = '\0';
    *ret = text;
    *ret_length = length;
    return CLI_OK;
}

/* The name in the file, which is checked here as well: these errors name line and column of it. */
static int read_name(struct session *s, const char *path, const char *text, size_t length, char **ret)
{
    struct config defaults;
    struct database_spec spec;
    struct err err = {0};
    config_init(&defaults);
    int rc = database_spec_parse(text, length, strcmp(path, "-") == 0 ? "stdin" : path, &defaults.balance,
                                 &spec, &err);
    config_free(&defaults);
    if (rc != 0)
        return session_fail(s, CLI_USAGE, "%s (%s)", err.message, err_code_name(err.code));
    *ret = mem_strdup(spec.name);
    database_spec_free(&spec);
    return CLI_OK;
}

/* The database as it stands; without a root if there is none. */
static void read_standing(struct session *s, const char *name, struct session_reply *ret)
{
    struct buf path = {0};
    bool silent = s->silent;
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, name);
    s->silent = true;
    if (session_get(s, buf_text(&path), ret) != CLI_OK)
        session_reply_free(ret);
    s->silent = silent;
    buf_free(&path);
}

static int report_applied(struct session *s, const char *name, yyjson_val *before,
                          const struct session_reply *reply)
{
    bool dry = args_has(s->args, "dry-run");
    bool creates = yyjson_get_bool(yyjson_obj_get(reply->root, "would_create"));
    const char *what = reply->status == 201 || creates ? "created" : "configured";
    if (session_is_document(s)) {
        session_print(s, reply->root);
        return CLI_OK;
    }
    if (!dry && reply->status == 200 &&
        yyjson_equals(yyjson_obj_get(before, "spec"), yyjson_obj_get(reply->root, "spec")))
        what = "unchanged";
    struct buf text = {0};
    if (s->format == FORMAT_NAME)
        buf_printf(&text, "database/%s\n", name);
    else
        buf_printf(&text, "database/%s %s%s\n", name, what, dry ? " (dry run)" : "");
    session_out(s, &text);
    buf_free(&text);
    return CLI_OK;
}

static int send_spec(struct session *s, const char *name, const char *text, size_t length)
{
    struct session_reply reply;
    struct buf path = {0};
    struct session_reply before;
    read_standing(s, name, &before);
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, name);
    if (args_has(s->args, "dry-run"))
        buf_add_text(&path, "?dryRun=true");
    const struct session_request request = {PORT_ADMIN_API, "PUT",  buf_text(&path),
                                            text,           length, "application/yaml"};
    int rc = session_call(s, &request, &reply);
    buf_free(&path);
    if (rc == CLI_OK && reply.status == 202) {
        session_reply_free(&before);
        session_say(s, "database/%s created, is being provisioned", name);
        return command_began(s, &reply, args_has(s->args, "wait"));
    }
    if (rc == CLI_OK)
        rc = report_applied(s, name, before.root, &reply);
    session_reply_free(&before);
    session_reply_free(&reply);
    return rc;
}

int command_apply(struct session *s)
{
    const char *path = args_value(s->args, "filename");
    char *text = NULL, *name = NULL;
    size_t length = 0;
    if (path == NULL)
        return session_fail(s, CLI_USAGE, "name the specification with -f FILE (\"-\" is stdin)");
    int rc = command_read_file(s, path, &text, &length);
    if (rc == CLI_OK)
        rc = read_name(s, path, text, length, &name);
    if (rc == CLI_OK)
        rc = send_spec(s, name, text, length);
    free(name);
    free(text);
    return rc;
}

/* ---- delete ---- */

int command_delete(struct session *s)
{
    const char *kind = s->args->words[0], *name = s->args->word_count > 1 ? s->args->words[1] : NULL;
    const char *confirm = args_value(s->args, "confirm");
    struct session_reply reply;
    struct buf path = {0};
    const char *inner = NULL;
    const struct resource *r = resource_split(s, kind, &inner);
    if (r == NULL)
        return CLI_USAGE;
    name = inner != NULL ? inner : name;
    if (strcmp(r->kind, "database") != 0)
        return session_fail(s, CLI_USAGE, "only a database can be deleted; a shard goes by merge");
    if (name == NULL)
        return session_fail(s, CLI_USAGE, "which database? see: shardherd get databases");
    if (confirm == NULL || strcmp(confirm, name) != 0)
        return session_fail(
            s, CLI_USAGE,
            "this removes database %s with all its shards and rows; if that is meant: --confirm=%s", name,
            name);
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, name);
    const struct session_request request = {
        .port = PORT_ADMIN_API, .method = "DELETE", .path = buf_text(&path)};
    int rc = session_call(s, &request, &reply);
    buf_free(&path);
    if (rc == CLI_OK && reply.status == 202)
        return command_began(s, &reply, args_has(s->args, "wait"));
    session_reply_free(&reply);
    return rc;
}

/* ---- operations on ranges ---- */

static const struct {
    const char *flag, *member;
} move_members[] = {{"to", "target"}, {"into", "target"}, {"at", "at"},       {"lo", "lo"},
                    {"hi", "hi"},     {"key", "key"},     {"table", "table"}, {"bake", "bake"}};

static char *move_body(struct session *s, const char *kind, const char *shard)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "kind", kind);
    yyjson_mut_obj_add_str(doc, root, "shard", shard);
    for (size_t i = 0; i < sizeof move_members / sizeof move_members[0]; i++) {
        const char *value = args_value(s->args, move_members[i].flag);
        if (value == NULL)
            continue;
        yyjson_mut_obj_add_str(doc, root, move_members[i].member,
                               strcmp(move_members[i].member, "target") == 0 ? session_bare(value, "shard")
                                                                             : value);
    }
    if (args_has(s->args, "dry-run"))
        yyjson_mut_obj_add_bool(doc, root, "dryRun", true);
    if (args_has(s->args, "allow-ddl"))
        yyjson_mut_obj_add_bool(doc, root, "allowDdl", true);
    char *body = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    return body != NULL ? body : mem_strdup("{}");
}

static int route_key(struct session *s, const char *database, const char *key, struct session_reply *ret)
{
    const char *table = args_value(s->args, "table");
    struct buf path = {0};
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, database);
    buf_add_text(&path, "/route?key=");
    session_escape(&path, key);
    if (table != NULL) {
        buf_add_text(&path, "&table=");
        session_escape(&path, table);
    }
    int rc = session_get(s, buf_text(&path), ret);
    buf_free(&path);
    return rc;
}

/* An isolation needs no shard: the key tells it. */
static int shard_of_key(struct session *s, char database[SESSION_NAME_SIZE], char shard[SESSION_NAME_SIZE])
{
    const char *key = args_value(s->args, "key");
    struct session_reply reply;
    if (key == NULL)
        return session_fail(s, CLI_USAGE, "name the key with --key, or the shard and a hash with --at");
    int rc = session_database(s, database);
    if (rc != CLI_OK)
        return rc;
    rc = route_key(s, database, key, &reply);
    snprintf(shard, SESSION_NAME_SIZE, "%s", json_get_text(reply.root, "shard"));
    session_reply_free(&reply);
    return rc;
}

int command_move(struct session *s)
{
    char database[SESSION_NAME_SIZE], shard[SESSION_NAME_SIZE];
    struct session_reply reply;
    struct buf path = {0};
    bool dry = args_has(s->args, "dry-run");
    int rc = s->args->word_count > 0 ? session_shard(s, s->args->words[0], database, shard)
                                     : shard_of_key(s, database, shard);
    if (rc != CLI_OK)
        return rc;
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, database);
    buf_add_text(&path, "/operations");
    char *body = move_body(s, s->command->name, shard);
    const struct session_request request = {PORT_ADMIN_API, "POST",       buf_text(&path),
                                            body,           strlen(body), "application/json"};
    rc = session_call(s, &request, &reply);
    free(body);
    buf_free(&path);
    if (rc == CLI_OK) /* a dry run is of no use without what it found */
        return command_began(s, &reply, dry || args_has(s->args, "wait"));
    session_reply_free(&reply);
    return rc;
}

/* Undone is what was asked for. */
static int follow_back(struct session *s, const char *id)
{
    struct session_reply end;
    int rc = progress_follow_back(s, id, &end);
    const char *status = json_get_text(end.root, "status");
    if (rc == CLI_OK && strcmp(status, "undone") == 0) {
        if (session_is_document(s))
            session_print(s, end.root);
        else
            print_ended(s, end.root);
    } else if (rc == CLI_OK) {
        yyjson_val *error = yyjson_obj_get(end.root, "error");
        bool told = yyjson_is_obj(error);
        rc = session_fail(s, CLI_CONFLICT, "operation %s stays as it is%s%s", id, told ? ": " : "",
                          told ? json_get_text(error, "message") : "");
    }
    session_reply_free(&end);
    return rc;
}

/* POST /v1/operations/ID/<verb>, the command's name */
static int ask_operation(struct session *s, const char *id, struct session_reply *ret)
{
    struct buf path = {0};
    buf_add_text(&path, "/v1/operations/");
    session_escape(&path, id);
    buf_printf(&path, "/%s", s->command->name);
    if (args_has(s->args, "accept-differences"))
        buf_add_text(&path, "?acceptDifferences=true");
    const struct session_request request = {
        .port = PORT_ADMIN_API, .method = "POST", .path = buf_text(&path)};
    int rc = session_call(s, &request, ret);
    buf_free(&path);
    return rc;
}

static void print_asked(struct session *s, const char *id, const char *what, yyjson_val *answer)
{
    struct buf text = {0};
    if (session_is_document(s)) {
        session_print(s, answer);
        return;
    }
    bool bare = s->format == FORMAT_NAME;
    buf_printf(&text, "operation/%s%s%s\n", id, bare ? "" : " ", bare ? "" : what);
    session_out(s, &text);
    buf_free(&text);
}

int command_resume(struct session *s)
{
    const char *id = session_bare(session_bare(s->args->words[0], "operation"), "op");
    struct session_reply reply;
    int rc = ask_operation(s, id, &reply);
    if (rc == CLI_OK && args_has(s->args, "wait"))
        return command_began(s, &reply, true);
    if (rc == CLI_OK)
        print_asked(s, id, "goes on", reply.root);
    session_reply_free(&reply);
    return rc;
}

/* cancel and rollback */
int command_back(struct session *s)
{
    const char *id = session_bare(session_bare(s->args->words[0], "operation"), "op");
    bool rollback = strcmp(s->command->name, "rollback") == 0;
    struct session_reply reply;
    int rc = ask_operation(s, id, &reply);
    if (rc != CLI_OK || args_has(s->args, "wait")) {
        session_reply_free(&reply);
        if (rc != CLI_OK)
            return rc;
        if (rollback)
            return follow_back(s, id);
        rc = follow_to_end(s, id);
        return rc == CLI_FAILED ? CLI_OK : rc; /* undone is what was asked for */
    }
    print_asked(s, id, "is going back", reply.root);
    session_reply_free(&reply);
    return CLI_OK;
}

int command_route(struct session *s)
{
    char database[SESSION_NAME_SIZE];
    const char *key = s->args->words[s->args->word_count - 1];
    struct session_reply reply;
    if (s->args->word_count == 2)
        s->database = s->args->words[0];
    int rc = session_database(s, database);
    if (rc != CLI_OK)
        return rc;
    rc = route_key(s, database, key, &reply);
    if (rc == CLI_OK && session_is_document(s))
        session_print(s, reply.root);
    else if (rc == CLI_OK) {
        static const struct table_column columns[] = {
            {"DATABASE", 0, 0}, {"KEY", 0, 0},     {"HASH", 0, 0},  {"SHARD", 0, 0},
            {"STATE", 0, 0},    {"PRIMARY", 0, 0}, {"EPOCH", 0, 0}, {0}};
        struct buf text = {0};
        struct table t;
        resource_address(yyjson_obj_get(reply.root, "primary"), &text);
        table_init(&t, columns);
        table_row(&t);
        table_cell(&t, database);
        table_cell(&t, key);
        table_cell(&t, json_get_text(reply.root, "hash"));
        table_cell(&t, json_get_text(reply.root, "shard"));
        table_cell(&t, json_get_text(reply.root, "state"));
        table_cell(&t, buf_text(&text));
        table_cell(&t, json_get_text(reply.root, "epoch"));
        buf_reset(&text);
        buf_printf(&text, "shard/%s/%s\n", database, json_get_text(reply.root, "shard"));
        if (s->format == FORMAT_NAME)
            session_out(s, &text);
        else
            session_print_table(s, &t, true);
        table_free(&t);
        buf_free(&text);
    }
    session_reply_free(&reply);
    return rc;
}
