/* shardherd migrate: sends a script, or goes on with one that stopped. */
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"

static const struct {
    const char *flag, *query;
} queries[] = {{"lock-timeout", "lockTimeout"}, {"attempts", "attempts"}};

static int send_script(struct session *s, const char *script, size_t length, struct session_reply *reply)
{
    char database[SESSION_NAME_SIZE];
    struct buf path = {0};
    int rc = session_database(s, database);
    if (rc != CLI_OK)
        return rc;
    buf_add_text(&path, "/v1/databases/");
    session_escape(&path, database);
    buf_printf(&path, "/migrations?dryRun=%s", args_has(s->args, "dry-run") ? "true" : "false");
    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++) {
        const char *value = args_value(s->args, queries[i].flag);
        if (value == NULL)
            continue;
        buf_printf(&path, "&%s=", queries[i].query);
        session_escape(&path, value);
    }
    const struct session_request request = {PORT_ADMIN_API, "POST", buf_text(&path),
                                            script,         length, "application/sql"};
    rc = session_call(s, &request, reply);
    buf_free(&path);
    return rc;
}

static int resume(struct session *s, const char *word, struct session_reply *reply)
{
    struct buf path = {0};
    buf_add_text(&path, "/v1/operations/");
    session_escape(&path, session_bare(session_bare(word, "operation"), "op"));
    buf_add_text(&path, "/resume");
    const struct session_request request = {
        .port = PORT_ADMIN_API, .method = "POST", .path = buf_text(&path)};
    int rc = session_call(s, &request, reply);
    buf_free(&path);
    return rc;
}

int command_migrate(struct session *s)
{
    const char *file = args_value(s->args, "filename"), *stopped = args_value(s->args, "resume");
    struct session_reply reply = {0};
    char *script = NULL;
    size_t length = 0;
    if ((file == NULL) == (stopped == NULL))
        return session_fail(s, CLI_USAGE,
                            "name the script with -f FILE (\"-\" is stdin), or a migration that stopped with "
                            "--resume OPERATION");
    int rc = file != NULL ? command_read_file(s, file, &script, &length) : CLI_OK;
    if (rc == CLI_OK)
        rc = file != NULL ? send_script(s, script, length, &reply) : resume(s, stopped, &reply);
    free(script);
    if (rc == CLI_OK) /* a dry run is of no use without what it found */
        return command_began(s, &reply, args_has(s->args, "dry-run") || args_has(s->args, "wait"));
    session_reply_free(&reply);
    return rc;
}
