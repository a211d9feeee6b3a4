/* links: store */
/*
 * usage: etcd_tool ENDPOINT,... PREFIX [LEASE_SECONDS [USER PASSWORD]]
 *
 * A store in etcd at the end of a pipe. Prints "opened" or "failed CODE MESSAGE". Each line that comes is a
 * number and a command, each answer begins with that number:
 *   N get KEY | N list PREFIX | N put KEY REVISION VALUE | N delete KEY REVISION | N watch PREFIX | N lease
 * NAME N close Answers: "N ok REVISION [VALUE]" (list: "N ok COUNT KEY..."), "N CODE MESSAGE"; besides "event
 * KEY REVISION VALUE" ("-" = deleted) and "lost".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/mem.h"
#include "store/store.h"

struct tool {
    struct loop loop;
    struct store *store;
    uv_poll_t input;
    struct buf line;
};

struct command {
    struct tool *tool;
    char number[24];
};

static void answer_error(struct command *c, const struct err *err)
{
    printf("%s %s %s\n", c->number, err_code_name(err->code), err->message);
}

static void on_get(const struct err *err, const struct store_entry *entry, void *data)
{
    struct command *c = data;
    if (err != NULL)
        answer_error(c, err);
    else
        printf("%s ok %lld %s\n", c->number, (long long)entry->revision, entry->value);
    free(c);
}

static void on_list(const struct err *err, const struct store_entry *entries, int count, void *data)
{
    struct command *c = data;
    if (err != NULL) {
        answer_error(c, err);
    } else {
        printf("%s ok %d", c->number, count);
        for (int i = 0; i < count; i++)
            printf(" %s", entries[i].key);
        printf("\n");
    }
    free(c);
}

static void on_write(const struct err *err, int64_t revision, void *data)
{
    struct command *c = data;
    if (err != NULL)
        answer_error(c, err);
    else
        printf("%s ok %lld\n", c->number, (long long)revision);
    free(c);
}

static void on_event(const struct store_entry *entry, void *data)
{
    (void)data;
    printf("event %s %lld %s\n", entry->key, (long long)entry->revision,
           entry->value != NULL ? entry->value : "-");
}

static void on_lost(void *data)
{
    (void)data;
    printf("lost\n");
}

static void on_closed(void *data)
{
    (void)data;
    printf("closed\n");
}

static void tool_close(struct tool *t)
{
    if (uv_is_closing((uv_handle_t *)&t->input))
        return;
    uv_close((uv_handle_t *)&t->input, NULL);
    if (t->store != NULL)
        store_close(t->store, on_closed, t);
    t->store = NULL;
}

static int command_run(struct tool *t, struct command *c, char *verb, struct err *err)
{
    char *key = strtok(NULL, " "), *revision, *value;
    struct store_watch *watch;
    if (key == NULL)
        key = verb + strlen(verb);
    if (strcmp(verb, "get") == 0)
        return store_get(t->store, key, on_get, c, err);
    if (strcmp(verb, "list") == 0)
        return store_list(t->store, key, on_list, c, err);
    if (strcmp(verb, "lease") == 0)
        return store_lease(t->store, key, on_write, on_lost, c, err);
    if (strcmp(verb, "watch") == 0) {
        int rc = store_watch(t->store, key, on_event, t, &watch, err);
        if (rc == 0)
            on_write(NULL, 0, c);
        return rc;
    }
    revision = strtok(NULL, " ");
    value = strtok(NULL, "\n");
    return store_compare_and_swap(t->store, key, strtoll(revision != NULL ? revision : "0", NULL, 10),
                                  strcmp(verb, "delete") == 0 ? NULL
                                  : value != NULL             ? value
                                                              : "",
                                  on_write, c, err);
}

static void line_run(struct tool *t, char *line)
{
    struct command *c = mem_zalloc(sizeof *c);
    struct err err = {0};
    const char *number = strtok(line, " ");
    char *verb = strtok(NULL, " ");
    c->tool = t;
    snprintf(c->number, sizeof c->number, "%s", number != NULL ? number : "?");
    if (verb == NULL || strcmp(verb, "close") == 0) {
        free(c);
        tool_close(t);
    } else if (command_run(t, c, verb, &err) != 0) {
        answer_error(c, &err);
        free(c);
    }
}

static void on_input(uv_poll_t *poll, int status, int events)
{
    struct tool *t = poll->data;
    char bytes[65536], *end;
    (void)events;
    ssize_t n = status == 0 ? read(0, bytes, sizeof bytes) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        tool_close(t);
        return;
    }
    buf_add(&t->line, bytes, (size_t)n);
    while (t->store != NULL && (end = memchr(t->line.data, '\n', t->line.length)) != NULL) {
        size_t length = (size_t)(end - t->line.data);
        char *line = mem_strndup(t->line.data, length);
        buf_consume(&t->line, length + 1);
        line_run(t, line);
        free(line);
    }
}

static void on_open(const struct err *err, struct store *store, void *data)
{
    struct tool *t = data;
    if (err != NULL) {
        printf("failed %s %s\n", err_code_name(err->code), err->message);
        return;
    }
    t->store = store;
    printf("opened\n");
    t->input.data = t;
    uv_poll_init(&t->loop.uv, &t->input, 0);
    uv_poll_start(&t->input, UV_READABLE, on_input);
}

int main(int argc, char **argv)
{
    struct tool t = {0};
    const char *endpoints[16];
    struct store_etcd_options o = {.endpoints = endpoints};
    struct err err = {0};
    if (argc < 3) {
        fprintf(stderr, "usage: etcd_tool ENDPOINT,... PREFIX [LEASE_SECONDS [USER PASSWORD]]\n");
        return 2;
    }
    for (char *at = strtok(argv[1], ","); at != NULL && o.endpoint_count < 16; at = strtok(NULL, ","))
        endpoints[o.endpoint_count++] = at;
    o.prefix = argv[2];
    o.lease_s = argc > 3 ? atoi(argv[3]) : 0;
    o.user = argc > 5 ? argv[4] : NULL;
    o.password = argc > 5 ? argv[5] : NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (loop_init(&t.loop, env_system(), &err) != 0 || store_etcd_open(&t.loop, &o, on_open, &t, &err) != 0) {
        printf("failed %s %s\n", err_code_name(err.code), err.message);
        return 1;
    }
    loop_run(&t.loop);
    buf_free(&t.line);
    return loop_fini(&t.loop);
}
