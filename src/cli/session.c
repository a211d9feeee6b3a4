#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/human.h"
#include "cli/session.h"
#include "cli/yaml.h"

#define PORTS_FILE_MAX 65536

const struct args_flag session_flags[] = {
    {"server", 0, "URL", "the manager's public API (SHARDHERD_SERVER; http://127.0.0.1:8080)", NULL},
    {"admin", 0, "URL", "the manager's admin API (SHARDHERD_ADMIN; http://127.0.0.1:8081)", NULL},
    {"state", 0, "DIR", "find both in manager.json of this state directory", "directory"},
    {"database", 'd', "NAME", "the database (SHARDHERD_DATABASE; not needed while there is only one)",
     "databases"},
    {"output", 'o', "FORMAT", "table, wide, json, yaml or name", "table|wide|json|yaml|name"},
    {"watch", 'w', NULL, "go on and print what changes", NULL},
    {"timeout", 0, "DURATION", "give up after so long: a request (30s), a wait (10m)", NULL},
    {"quiet", 'q', NULL, "no messages and no progress", NULL},
    {"no-color", 0, NULL, "no colors (also: NO_COLOR)", NULL},
    {"help", 'h', NULL, "this text", NULL},
    {0},
};

/* ---- output ---- */

int session_fail(const struct session *s, int code, const char *fmt, ...)
{
    struct buf text = {0}, clean = {0};
    va_list args;
    if (s != NULL && s->silent)
        return code;
    va_start(args, fmt);
    buf_vprintf(&text, fmt, args);
    va_end(args);
    table_print_text(&clean, buf_text(&text), TABLE_PLAIN, false);
    fprintf(stderr, "shardherd: %s\n", buf_text(&clean));
    buf_free(&text);
    buf_free(&clean);
    return code;
}

void session_say(const struct session *s, const char *fmt, ...)
{
    va_list args;
    if (s->quiet || s->silent)
        return;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

void session_out(struct session *s, struct buf *text)
{
    if (text->length > 0 &&
        (fwrite(text->data, 1, text->length, stdout) != text->length || fflush(stdout) != 0))
        s->broken = true;
    buf_reset(text);
}

bool session_is_document(const struct session *s)
{
    return s->format == FORMAT_JSON || s->format == FORMAT_YAML;
}

void session_print(struct session *s, yyjson_val *value)
{
    struct buf text = {0};
    if (s->format == FORMAT_YAML) {
        yaml_print(value, &text);
    } else {
        char *json = yyjson_val_write(value, YYJSON_WRITE_PRETTY_TWO_SPACES, NULL);
        buf_printf(&text, "%s\n", json != NULL ? json : "null");
        free(json);
    }
    session_out(s, &text);
    buf_free(&text);
}

void session_print_table(struct session *s, const struct table *t, bool header)
{
    struct buf text = {0};
    const struct table_look look = {
        .wide = s->format == FORMAT_WIDE, .color = s->color_out, .no_header = !header};
    table_print(t, &look, &text);
    session_out(s, &text);
    buf_free(&text);
}

/* ---- opening ---- */

static int bad_value(const char *flag, const char *value, const char *wanted)
{
    return session_fail(NULL, CLI_USAGE, "flag --%s: \"%s\" is not %s", flag, value, wanted);
}

static int take_format(struct session *s)
{
    static const char *const names[] = {"table", "wide", "json", "yaml", "name"};
    const char *value = args_value(s->args, "output");
    struct nearest n;
    if (value == NULL)
        return CLI_OK;
    nearest_init(&n, value);
    for (int f = FORMAT_TABLE; f <= FORMAT_NAME; f++) {
        nearest_offer(&n, names[f]);
        if (strcmp(value, names[f]) == 0) {
            s->format = (enum session_format)f;
            return CLI_OK;
        }
    }
    bad_value("output", value, "one of table, wide, json, yaml, name");
    if (n.best != NULL)
        fprintf(stderr, "  did you mean %s?\n", n.best);
    return CLI_USAGE;
}

static int take_url(struct session *s, enum session_port port, const char *url)
{
    if (!text_starts_with(url, "http://") && !text_starts_with(url, "https://"))
        return session_fail(s, CLI_USAGE, "\"%s\" is not a URL: it is to begin with http:// or https://",
                            url);
    size_t length = strlen(url);
    while (length > 0 && url[length - 1] == '/')
        length--;
    free(s->servers[port]);
    s->servers[port] = mem_strndup(url, length);
    return CLI_OK;
}

/* The ports that a manager wrote when it opened them. */
static int take_state(struct session *s, const char *directory)
{
    static const char *const names[] = {"public", "admin"};
    char *path = mem_printf("%s/manager.json", directory);
    yyjson_read_err wrong = {0};
    int rc = CLI_OK;
    FILE *f = fopen(path, "re");
    char *text = mem_zalloc(PORTS_FILE_MAX);
    size_t length = f != NULL ? fread(text, 1, PORTS_FILE_MAX, f) : 0;
    yyjson_doc *doc = f != NULL ? yyjson_read_opts(text, length, 0, NULL, &wrong) : NULL;
    if (f == NULL)
        rc = session_fail(s, CLI_UNREACHABLE,
                          "%s: %s\n  a manager writes it when it starts: is one running there?", path,
                          strerror(errno));
    for (int p = 0; p < 2 && rc == CLI_OK; p++) {
        int64_t port = yyjson_get_sint(yyjson_obj_get(yyjson_doc_get_root(doc), names[p]));
        if (port < 1 || port > 65535)
            rc = session_fail(s, CLI_FAILED, "%s: no port \"%s\" is in it", path, names[p]);
        free(s->servers[p]);
        s->servers[p] = mem_printf("http://127.0.0.1:%d", (int)port);
    }
    if (f != NULL)
        fclose(f);
    yyjson_doc_free(doc);
    free(text);
    free(path);
    return rc;
}

static int take_servers(struct session *s)
{
    static const struct {
        const char *flag, *variable, *fallback;
    } sources[] = {{"server", "SHARDHERD_SERVER", "http://127.0.0.1:8080"},
                   {"admin", "SHARDHERD_ADMIN", "http://127.0.0.1:8081"}};
    const char *state = args_value(s->args, "state");
    int rc = state != NULL ? take_state(s, state) : CLI_OK;
    for (int p = 0; p < 2 && rc == CLI_OK; p++) {
        const char *url = args_value(s->args, sources[p].flag);
        const char *variable = s->env->get(s->env, sources[p].variable);
        if (url == NULL && s->servers[p] == NULL)
            url = variable != NULL && variable[0] != '\0' ? variable : sources[p].fallback;
        if (url != NULL)
            rc = take_url(s, (enum session_port)p, url);
    }
    return rc;
}

static bool variable_set(struct env *env, const char *name)
{
    const char *value = env->get(env, name);
    return value != NULL && value[0] != '\0';
}

static bool locale_is_utf8(struct env *env)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (variable_set(env, names[i])) {
            const char *value = env->get(env, names[i]);
            return strstr(value, "UTF-8") != NULL || strstr(value, "utf8") != NULL ||
                   strstr(value, "UTF8") != NULL;
        }
    return false;
}

static int take_flags(struct session *s)
{
    const char *timeout = args_value(s->args, "timeout");
    const char *database = args_value(s->args, "database");
    const char *term = s->env->get(s->env, "TERM");
    bool plain = args_has(s->args, "no-color") || variable_set(s->env, "NO_COLOR") || term == NULL ||
                 strcmp(term, "dumb") == 0;
    s->watch = args_has(s->args, "watch");
    s->quiet = args_has(s->args, "quiet");
    s->terminal_out = isatty(STDOUT_FILENO) == 1;
    s->terminal = isatty(STDERR_FILENO) == 1 && term != NULL && strcmp(term, "dumb") != 0;
    s->color = s->terminal && !plain;
    s->color_out = s->terminal_out && !plain;
    s->utf8 = locale_is_utf8(s->env);
    s->database = database != NULL                             ? database
                  : variable_set(s->env, "SHARDHERD_DATABASE") ? s->env->get(s->env, "SHARDHERD_DATABASE")
                                                               : NULL;
    if (timeout != NULL && (!text_to_duration(timeout, &s->timeout_ns) || s->timeout_ns == 0))
        return bad_value("timeout", timeout, "a duration, as 500ms, 30s or 10m");
    return take_format(s);
}

int session_open(struct session *s, struct env *env, const struct cli_command *command,
                 const struct args *args)
{
    struct err err = {0};
    memset(s, 0, sizeof *s);
    s->env = env;
    s->args = args;
    s->command = command;
    int rc = take_flags(s);
    if (rc == CLI_OK)
        rc = take_servers(s);
    if (rc == CLI_OK && loop_init(&s->loop, env, &err) != 0)
        rc = session_fail(s, CLI_FAILED, "%s", err.message);
    if (rc != CLI_OK) {
        free(s->servers[0]);
        free(s->servers[1]);
        return rc;
    }
    s->client = http_client_new(&s->loop, NULL);
    return CLI_OK;
}

static void on_closed(void *data)
{
    struct session *s = data;
    s->client = NULL;
}

void session_close(struct session *s)
{
    http_client_close(s->client, on_closed, s);
    loop_run(&s->loop);
    loop_fini(&s->loop);
    free(s->servers[0]);
    free(s->servers[1]);
}

static void on_pause_end(struct loop_timer *timer, void *data)
{
    struct session *s = data;
    (void)timer;
    loop_stop(&s->loop);
}

void session_pause(struct session *s, uint64_t ns)
{
    struct loop_timer timer;
    loop_timer_init(&s->loop, &timer, on_pause_end, s);
    loop_timer_start_at(&timer, loop_clock(&s->loop) + ns);
    while (loop_timer_armed(&timer))
        loop_run(&s->loop);
}
