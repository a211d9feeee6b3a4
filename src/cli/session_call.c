/* Calls of the API, lists of several pages, names, and members of what comes back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/human.h"
#include "cli/session.h"
#include "http/http_exchange.h"

#define PAGES_MAX 10000

/* ---- members ---- */

const char *json_get_text(yyjson_val *object, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return text != NULL ? text : "";
}

double json_get_number(yyjson_val *object, const char *name)
{
    yyjson_val *value = yyjson_obj_get(object, name);
    double number;
    if (yyjson_is_num(value))
        return yyjson_get_num(value);
    return yyjson_is_str(value) && text_to_double(yyjson_get_str(value), &number) ? number : (double)NAN;
}

int64_t json_get_time(yyjson_val *object, const char *name)
{
    int64_t us;
    return human_time_parse(yyjson_get_str(yyjson_obj_get(object, name)), &us) ? us : 0;
}

yyjson_val *json_get_path(yyjson_val *object, const char *path)
{
    while (object != NULL && *path != '\0') {
        size_t length = strcspn(path, ".");
        object = yyjson_obj_getn(object, path, length);
        path += length + (path[length] == '.');
    }
    return object;
}

const char *session_age(const struct session *s, yyjson_val *object, const char *name, char *out)
{
    int64_t us = json_get_time(object, name);
    return us == 0 ? "" : human_age((double)(loop_wall(&s->loop) - us) / 1e6, out);
}

/* ---- problems ---- */

static int exit_of_code(const char *code, int status)
{
    static const struct {
        const char *code;
        int exit;
    } codes[] = {
        {"not_found", CLI_NOT_FOUND},     {"gone", CLI_NOT_FOUND},
        {"conflict", CLI_CONFLICT},       {"exists", CLI_CONFLICT},
        {"refused", CLI_CONFLICT},        {"precondition_failed", CLI_CONFLICT},
        {"key_reused", CLI_CONFLICT},     {"invalid", CLI_USAGE},
        {"unknown_parameter", CLI_USAGE}, {"too_large", CLI_USAGE},
        {"not_leader", CLI_UNREACHABLE},  {"unavailable", CLI_UNREACHABLE},
        {"not_ready", CLI_UNREACHABLE},   {"timeout", CLI_TIMEOUT},
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (strcmp(codes[i].code, code) == 0)
            return codes[i].exit;
    switch (status) {
    case 404:
        return CLI_NOT_FOUND;
    case 409:
    case 412:
        return CLI_CONFLICT;
    case 503:
        return CLI_UNREACHABLE;
    case 504:
        return CLI_TIMEOUT;
    default:
        return CLI_FAILED;
    }
}

static const char *remedy_of(const char *code)
{
    static const struct {
        const char *code, *remedy;
    } remedies[] = {
        {"not_leader", "name the admin API of the manager that leads with --admin"},
        {"method_not_allowed", "--admin is to name the admin API, --server the public one"},
        {"misdirected_request", "use the address the manager listens on, or 127.0.0.1, in --admin"},
        {"too_large", "an operation's request has 16 KiB at most, a specification 256 KiB"},
    };
    for (size_t i = 0; i < sizeof remedies / sizeof remedies[0]; i++)
        if (strcmp(remedies[i].code, code) == 0)
            return remedies[i].remedy;
    return NULL;
}

int session_problem(struct session *s, enum session_port port, const char *path, struct session_reply *reply)
{
    const char *detail = json_get_text(reply->root, "detail"), *code = json_get_text(reply->root, "code");
    snprintf(reply->code, sizeof reply->code, "%s", code);
    int rc = exit_of_code(code, reply->status);
    if (detail[0] == '\0')
        return session_fail(s, rc, "%s%s answered %d %s, which is no answer of a manager", s->servers[port],
                            path, reply->status, http_reason(reply->status));
    session_fail(s, rc, "%s (%s)", detail, code);
    if (remedy_of(code) != NULL && !s->silent)
        fprintf(stderr, "  %s\n", remedy_of(code));
    return rc;
}

int session_unreached(struct session *s, enum session_port port, const struct err *err)
{
    int rc = err->code == ERRC_TIMEOUT   ? CLI_TIMEOUT
             : err->code == ERRC_INVALID ? CLI_USAGE
                                         : CLI_UNREACHABLE;
    if (rc == CLI_UNREACHABLE && err->code != ERRC_UNAVAILABLE && err->code != ERRC_CLOSED)
        rc = CLI_FAILED;
    session_fail(s, rc, "cannot reach the manager at %s: %s (%s)", s->servers[port], err->message,
                 err_code_name(err->code));
    if (rc == CLI_UNREACHABLE && !s->silent)
        fputs("  is one running? start it with \"shardherd manager\", or say where it is with --server and "
              "--admin, or "
              "--state\n",
              stderr);
    return rc;
}

/* ---- calls ---- */

struct waiter {
    struct session *s;
    struct session_reply *reply;
    struct err err;
    bool done;
};

static void on_answer(const struct http_answer *answer, void *data)
{
    struct waiter *w = data;
    w->done = true;
    loop_stop(&w->s->loop);
    if (answer->err != NULL) {
        err_copy(&w->err, answer->err);
        return;
    }
    w->reply->status = answer->status;
    if (answer->body == NULL)
        return;
    w->reply->body = mem_strndup(answer->body, answer->body_length);
    w->reply->length = answer->body_length;
}

int session_call(struct session *s, const struct session_request *request, struct session_reply *ret)
{
    struct waiter w = {.s = s, .reply = ret};
    const struct http_header headers[] = {{"Accept", "application/json, application/problem+json"},
                                          {"Content-Type", request->content_type}};
    struct http_call *call;
    memset(ret, 0, sizeof *ret);
    char *url = mem_printf("%s%s", s->servers[request->port], request->path);
    const struct http_call_options options = {.method = request->method != NULL ? request->method : "GET",
                                              .url = url,
                                              .headers = headers,
                                              .header_count = request->content_type != NULL ? 2 : 1,
                                              .body = request->body,
                                              .body_length = request->body_length,
                                              .timeout_ns = s->timeout_ns};
    if (http_call_start(s->client, &options, on_answer, &w, &call, &w.err) == 0)
        while (!w.done)
            loop_run(&s->loop);
    free(url);
    if (w.err.code != ERRC_NONE)
        return session_unreached(s, request->port, &w.err);
    if (ret->length > 0)
        ret->doc = yyjson_read(ret->body, ret->length, 0);
    ret->root = yyjson_doc_get_root(ret->doc);
    return ret->status >= 200 && ret->status < 300 ? CLI_OK
                                                   : session_problem(s, request->port, request->path, ret);
}

int session_get(struct session *s, const char *path, struct session_reply *ret)
{
    const struct session_request request = {.port = PORT_PUBLIC_API, .path = path};
    return session_call(s, &request, ret);
}

void session_reply_free(struct session_reply *reply)
{
    yyjson_doc_free(reply->doc);
    free(reply->body);
    memset(reply, 0, sizeof *reply);
}

static void add_items(yyjson_mut_doc *doc, yyjson_mut_val *items, yyjson_val *root)
{
    size_t i, max;
    yyjson_val *item;
    yyjson_arr_foreach(yyjson_obj_get(root, "items"), i, max, item)
    {
        yyjson_mut_arr_append(items, yyjson_val_mut_copy(doc, item));
    }
}

int session_list(struct session *s, const char *path, yyjson_doc **ret)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *items = yyjson_mut_obj_add_arr(doc, root, "items");
    struct buf page = {0};
    bool more = true;
    int rc = CLI_OK;
    yyjson_mut_doc_set_root(doc, root);
    buf_add_text(&page, path);
    for (int n = 0; more && rc == CLI_OK && n < PAGES_MAX; n++) {
        struct session_reply reply;
        rc = session_get(s, buf_text(&page), &reply);
        add_items(doc, items, reply.root);
        const char *next = json_get_text(reply.root, "next");
        more = next[0] != '\0';
        buf_reset(&page);
        buf_printf(&page, "%s%ccursor=", path, strchr(path, '?') != NULL ? '&' : '?');
        session_escape(&page, next);
        session_reply_free(&reply);
    }
    buf_free(&page);
    *ret = rc == CLI_OK ? yyjson_mut_doc_imut_copy(doc, NULL) : NULL;
    yyjson_mut_doc_free(doc);
    return rc;
}

/* ---- names ---- */

void session_escape(struct buf *path, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     strchr("-._~", c) != NULL;
        if (plain)
            buf_addc(path, *p);
        else
            buf_printf(path, "%%%02X", c);
    }
}

static int keep_name(const struct session *s, const char *text, size_t length, char out[SESSION_NAME_SIZE])
{
    if (length == 0 || length >= SESSION_NAME_SIZE)
        return session_fail(s, CLI_USAGE, "a name has 1 to 63 characters");
    memcpy(out, text, length);
    out[length] = '\0';
    return CLI_OK;
}

int session_database(struct session *s, char out[SESSION_NAME_SIZE])
{
    struct session_reply reply;
    if (s->database != NULL) {
        const char *bare = session_bare(s->database, "database");
        return keep_name(s, bare, strlen(bare), out);
    }
    int rc = session_get(s, "/v1/databases?limit=5", &reply);
    yyjson_val *items = yyjson_obj_get(reply.root, "items");
    size_t count = yyjson_arr_size(items), i, max;
    yyjson_val *item;
    if (rc == CLI_OK && count == 0)
        rc = session_fail(s, CLI_NOT_FOUND,
                          "there is no database yet: make one with \"shardherd apply -f FILE\"");
    else if (rc == CLI_OK && count > 1) {
        struct buf names = {0};
        yyjson_arr_foreach(items, i, max, item)
        {
            buf_printf(&names, "%s%s", i > 0 ? ", " : "", json_get_text(item, "name"));
        }
        rc = session_fail(s, CLI_USAGE, "several databases exist (%s): say which with -d NAME",
                          buf_text(&names));
        buf_free(&names);
    } else if (rc == CLI_OK) {
        const char *name = json_get_text(yyjson_arr_get_first(items), "name");
        rc = keep_name(s, name, strlen(name), out);
    }
    session_reply_free(&reply);
    return rc;
}

const char *session_bare(const char *word, const char *kind)
{
    size_t length = strlen(kind);
    return strncmp(word, kind, length) == 0 && word[length] == '/' ? word + length + 1 : word;
}

int session_shard(struct session *s, const char *word, char database[SESSION_NAME_SIZE],
                  char shard[SESSION_NAME_SIZE])
{
    const char *bare = session_bare(word, "shard"), *slash = strchr(bare, '/');
    if (slash != NULL) {
        int rc = keep_name(s, bare, (size_t)(slash - bare), database);
        return rc != CLI_OK ? rc : keep_name(s, slash + 1, strlen(slash + 1), shard);
    }
    int rc = session_database(s, database);
    return rc != CLI_OK ? rc : keep_name(s, bare, strlen(bare), shard);
}
