/* links: ha store */
/*
 * ha_tool: keeps one shard with standbys, for the tests in tests/live.
 *
 *   ha_tool STORE.db TOKEN_FILE SHARD NAME=HOST:HTTP_PORT:PORT...
 *
 * The first member is the primary of a new shard. Prints "primary NAME TERM" for each primary that was
 * opened. SIGUSR1 switches over to the best standby; SIGTERM ends it and leaves the servers as they are.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "ha/shard_keeper.h"

struct tool {
    struct loop loop;
    struct loop_signal term, usr1;
    struct store *store;
    struct shard_keeper *keeper;
    struct shard_keeper_options options;
    struct shard_keeper_member members[HA_INSTANCES_MAX];
    struct ha_policy policy;
    bool ending;
    int result;
};

static void route(const char *primary, uint64_t term, void *data)
{
    (void)data;
    printf("primary %s %llu\n", primary, (unsigned long long)term);
    (void)fflush(stdout);
}

static void signals_stop(struct tool *t)
{
    loop_signal_stop(&t->term);
    loop_signal_stop(&t->usr1);
}

static void keeper_closed(void *data)
{
    struct tool *t = data;
    store_close(t->store, NULL, NULL);
    signals_stop(t);
}

static void opened(const struct err *err, struct store *store, void *data)
{
    struct tool *t = data;
    if (err != NULL) {
        (void)fprintf(stderr, "%s\n", err->message);
        t->result = 1;
        signals_stop(t);
        return;
    }
    t->store = t->options.store = store;
    t->keeper = shard_keeper_new(&t->loop, &t->options);
}

static void terminated(struct loop_signal *s, int number, void *data)
{
    struct tool *t = data;
    (void)s;
    (void)number;
    if (t->keeper != NULL && !t->ending)
        shard_keeper_close(t->keeper, keeper_closed, t);
    t->ending = true;
}

static void switch_over(struct loop_signal *s, int number, void *data)
{
    struct tool *t = data;
    struct err err = {0};
    (void)s;
    (void)number;
    if (t->keeper != NULL && shard_keeper_switch(t->keeper, NULL, &err) != 0)
        log_event(LOG_ERROR, "no switchover", "err", err.message, NULL);
}

/* NAME=HOST:HTTP_PORT:PORT, cut in place. */
static bool read_member(char *text, struct shard_keeper_member *m)
{
    char *host = strchr(text, '='), *http = host != NULL ? strchr(host, ':') : NULL;
    char *port = http != NULL ? strchr(http + 1, ':') : NULL;
    if (port == NULL)
        return false;
    *host = *http = *port = '\0';
    *m = (struct shard_keeper_member){.name = text,
                                      .host = host + 1,
                                      .http_port = (int)strtol(http + 1, NULL, 10),
                                      .port = (int)strtol(port + 1, NULL, 10)};
    return true;
}

static char *read_token(const char *path)
{
    char text[256] = "";
    FILE *file = fopen(path, "r");
    if (file == NULL || fgets(text, sizeof text, file) == NULL)
        exit(2);
    (void)fclose(file);
    text[strcspn(text, "\r\n")] = '\0';
    return mem_strdup(text);
}

int main(int argc, char **argv)
{
    struct tool *t = mem_zalloc(sizeof *t);
    struct err err = {0};
    if (argc < 5 || argc > 4 + HA_INSTANCES_MAX)
        return 2;
    log_setup(LOG_DEBUG, LOG_LOGFMT);
    for (int i = 4; i < argc; i++)
        if (!read_member(argv[i], &t->members[t->options.count++]))
            return 2;
    char *token = read_token(argv[2]), *key = mem_printf("ha/%s", argv[3]);
    ha_policy_defaults(&t->policy, t->options.count);
    t->options.name = argv[3];
    t->options.key = key;
    t->options.members = t->members;
    t->options.token = token;
    t->options.policy = &t->policy;
    t->options.route = route;
    t->options.data = t;
    if (loop_init(&t->loop, env_system(), &err) != 0 ||
        loop_signal_start(&t->loop, &t->term, SIGTERM, terminated, t, &err) != 0 ||
        loop_signal_start(&t->loop, &t->usr1, SIGUSR1, switch_over, t, &err) != 0 ||
        store_sqlite_open(&t->loop, argv[1], opened, t, &err) != 0) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    (void)loop_run(&t->loop);
    if (loop_fini(&t->loop) != 0)
        t->result = 1;
    int result = t->result;
    mem_wipe_free(token);
    free(key);
    free(t);
    return result;
}
