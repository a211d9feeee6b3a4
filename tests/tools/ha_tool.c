/* links: ha store */
/*
 * ha_tool: keeps one shard with standbys, for the tests in tests/live.
 *
 *   ha_tool STORE TOKEN_FILE SHARD NAME=HOST:HTTP_PORT:PORT...
 *
 * STORE is a file of SQLite, or the URL of an etcd; with that and HA_TOOL_HOLDER it waits until it leads,
 * prints "leader HOLDER TERM", and ends when it does not any more.
 *
 * The first member is the primary of a new shard. Prints "primary NAME TERM" for each primary that was
 * opened. SIGUSR1 switches over to the best standby; SIGTERM ends it and leaves the servers as they are.
 * With HA_TOOL_SETTLE set it prints "settle NAME TERM" for each that was promoted, and SIGUSR2 says that it
 * is; with "auto" that is said at once. SHARDHERD_TEST_KILL_AT: see ha/shard_keeper.h. HA_TOOL_TAGS: see
 * has_tag(). HA_TOOL_MAINTENANCE: nothing is decided. HA_TOOL_WANTED: so many of the members are to stay;
 * prints "size SHARD COUNT" for what the record names. HA_TOOL_ADOPTS: a new record is of a shard that served
 * alone. HA_TOOL_GONE: a file; the members whose names are lines in it are said to be gone, the others to
 * run. HA_TOOL_KEEPS: who does not stream stays in the sync set.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "ha/shard_keeper.h"
#include "loop/tls.h"

struct tool {
    struct loop loop;
    struct loop_signal term, usr1, usr2;
    uint64_t settling;
    struct loop_task answer;
    struct loop_timer watch;
    bool retired[HA_INSTANCES_MAX];
    unsigned size;
    struct store *store;
    const char *holder; /* of the store's lease; NULL = without one */
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

static void settle(const struct shard_keeper_promoted *promoted, void *data)
{
    struct tool *t = data;
    t->settling = promoted->term;
    printf("settle %s %llu\n", promoted->primary, (unsigned long long)promoted->term);
    (void)fflush(stdout);
    if (strcmp(getenv("HA_TOOL_SETTLE"), "auto") == 0)
        loop_defer(&t->loop, &t->answer);
}

static void answer(struct loop_task *task, void *data)
{
    struct tool *t = data;
    (void)task;
    if (!t->ending)
        shard_keeper_settled(t->keeper, t->settling, NULL);
}

static void settled(struct loop_signal *s, int number, void *data)
{
    struct tool *t = data;
    (void)s;
    (void)number;
    shard_keeper_settled(t->keeper, t->settling, NULL);
}

static void signals_stop(struct tool *t)
{
    loop_signal_stop(&t->term);
    loop_signal_stop(&t->usr1);
    loop_signal_stop(&t->usr2);
    loop_timer_stop(&t->watch);
}

static void keeper_closed(void *data)
{
    struct tool *t = data;
    store_close(t->store, NULL, NULL);
    signals_stop(t);
}

static void lead(struct tool *t)
{
    t->keeper = shard_keeper_new(&t->loop, &t->options);
    shard_keeper_maintenance(t->keeper, getenv("HA_TOOL_MAINTENANCE") != NULL);
    loop_timer_start(&t->watch, 50 * ENV_NS_PER_MS);
}

static void leased(const struct err *err, int64_t term, void *data)
{
    struct tool *t = data;
    if (err != NULL || t->ending)
        return;
    printf("leader %s %lld\n", t->holder, (long long)term);
    (void)fflush(stdout);
    lead(t);
}

/* As the manager does. */
static void lost(void *data)
{
    (void)data;
    log_event(LOG_ERROR, "the lease of the store was lost", NULL);
    _exit(3);
}

static void opened(const struct err *err, struct store *store, void *data)
{
    struct tool *t = data;
    struct err bad = {0};
    if (err != NULL) {
        (void)fprintf(stderr, "%s\n", err->message);
        t->result = 1;
        signals_stop(t);
        return;
    }
    t->store = t->options.store = store;
    if (t->holder == NULL)
        lead(t);
    else if (store_lease(store, t->holder, leased, lost, t, &bad) != 0)
        (void)fprintf(stderr, "%s\n", bad.message);
}

static int store_open(struct tool *t, const char *where, struct err *err)
{
    if (strncmp(where, "http", 4) != 0)
        return store_sqlite_open(&t->loop, where, opened, t, err);
    const struct store_etcd_options o = {
        .endpoints = &where, .endpoint_count = 1, .prefix = "shardherd/", .lease_s = 6};
    t->holder = getenv("HA_TOOL_HOLDER");
    return store_etcd_open(&t->loop, &o, opened, t, err);
}

static void terminated(struct loop_signal *s, int number, void *data)
{
    struct tool *t = data;
    (void)s;
    (void)number;
    if (t->keeper != NULL && !t->ending)
        shard_keeper_close(t->keeper, keeper_closed, t);
    else if (!t->ending && t->store != NULL)
        keeper_closed(t);
    t->ending = true;
}

static void switch_over(struct loop_signal *s, int number, void *data)
{
    struct tool *t = data;
    struct err err = {0};
    (void)s;
    (void)number;
    if (t->keeper != NULL && shard_keeper_switch(t->keeper, NULL, NULL, &err) != 0)
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

/* HA_TOOL_TAGS="b:no_failover c:retiring ..." */
static bool has_tag(const char *member, const char *tag)
{
    const char *all = getenv("HA_TOOL_TAGS");
    char *one = mem_printf("%s:%s ", member, tag), *text = mem_printf("%s ", all != NULL ? all : "");
    bool has = strstr(text, one) != NULL;
    free(one);
    free(text);
    return has;
}

static void read_tags(struct shard_keeper_member *m)
{
    m->tags.no_failover = has_tag(m->name, "no_failover");
    m->tags.no_sync = has_tag(m->name, "no_sync");
    m->tags.retiring = has_tag(m->name, "retiring");
    m->tags.priority = has_tag(m->name, "preferred");
    m->tags.follows = has_tag(m->name, "follows_0") ? 1 : has_tag(m->name, "follows_1") ? 2 : 0;
}

static void watch_size(struct tool *t)
{
    unsigned size = shard_keeper_size(t->keeper);
    struct err err = {0};
    if (size != t->size) {
        t->size = size;
        printf("size %s %u\n", t->options.name, size);
        (void)fflush(stdout);
    }
    if (shard_keeper_hands_over(t->keeper) && shard_keeper_switch(t->keeper, NULL, NULL, &err) != 0)
        log_event(LOG_ERROR, "no switchover yet", "err", err.message, NULL);
}

static void tell_gone(struct tool *t)
{
    const char *path = getenv("HA_TOOL_GONE");
    FILE *file = path != NULL ? fopen(path, "r") : NULL;
    char line[HA_NAME_SIZE];
    bool gone[HA_INSTANCES_MAX] = {false};
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        for (unsigned i = 0; i < t->options.count; i++)
            gone[i] = gone[i] || strcmp(line, t->members[i].name) == 0;
    }
    if (file != NULL)
        (void)fclose(file);
    for (unsigned i = 0; path != NULL && i < t->options.count; i++)
        shard_keeper_pod(t->keeper, t->members[i].name, gone[i]);
}

/* Prints "retired NAME 0" once for each. */
static void watch(struct loop_timer *timer, void *data)
{
    struct tool *t = data;
    loop_timer_start(timer, 50 * ENV_NS_PER_MS);
    if (t->keeper != NULL && !t->ending)
        watch_size(t);
    tell_gone(t);
    for (unsigned i = 0; t->keeper != NULL && !t->ending && i < t->options.count; i++)
        if (!t->retired[i] && shard_keeper_retired(t->keeper, t->members[i].name)) {
            t->retired[i] = true;
            printf("retired %s 0\n", t->members[i].name);
            (void)fflush(stdout);
        }
}

static char *read_file(const char *folder, const char *name)
{
    char *path = mem_printf("%s/%s", folder, name), *text = mem_zalloc(65536);
    FILE *file = fopen(path, "r");
    if (file == NULL || fread(text, 1, 65535, file) == 0)
        exit(2);
    (void)fclose(file);
    free(path);
    return text;
}

/* HA_TOOL_TLS: a folder with ca.crt, tls.crt and tls.key. */
static int read_tls(struct tool *t, struct err *err)
{
    const char *folder = getenv("HA_TOOL_TLS");
    if (folder == NULL)
        return 0;
    char *ca = read_file(folder, "ca.crt"), *certificate = read_file(folder, "tls.crt"),
         *key = read_file(folder, "tls.key");
    const struct tls_options o = {.verify_peer = true, .ca_pem = ca, .cert_pem = certificate, .key_pem = key};
    int rc = tls_context_new(&o, &t->options.tls, err);
    free(ca);
    free(certificate);
    mem_wipe_free(key);
    return rc;
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
    for (unsigned i = 0; i < t->options.count; i++)
        read_tags(&t->members[i]);
    char *token = read_token(argv[2]), *key = mem_printf("ha/%s", argv[3]);
    t->options.wanted = getenv("HA_TOOL_WANTED") != NULL ? (unsigned)atoi(getenv("HA_TOOL_WANTED")) : 0;
    t->options.adopts = getenv("HA_TOOL_ADOPTS") != NULL;
    ha_policy_defaults(&t->policy, t->options.wanted != 0 ? t->options.wanted : t->options.count);
    if (getenv("HA_TOOL_ASYNC") != NULL)
        t->policy.durability = HA_ASYNC;
    if (getenv("HA_TOOL_KEEPS") != NULL)
        t->policy.exclude_ns = 3600 * ENV_NS_PER_S;
    t->options.name = argv[3];
    t->options.key = key;
    t->options.members = t->members;
    t->options.token = token;
    t->options.policy = &t->policy;
    t->options.route = route;
    t->options.settle = getenv("HA_TOOL_SETTLE") != NULL ? settle : NULL;
    t->options.data = t;
    t->options.kill_at = getenv("SHARDHERD_TEST_KILL_AT");
    t->answer = (struct loop_task){.run = answer, .data = t};
    if (loop_init(&t->loop, env_system(), &err) != 0 ||
        loop_signal_start(&t->loop, &t->term, SIGTERM, terminated, t, &err) != 0 ||
        loop_signal_start(&t->loop, &t->usr1, SIGUSR1, switch_over, t, &err) != 0 ||
        loop_signal_start(&t->loop, &t->usr2, SIGUSR2, settled, t, &err) != 0 || read_tls(t, &err) != 0 ||
        store_open(t, argv[1], &err) != 0) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    loop_timer_init(&t->loop, &t->watch, watch, t);
    (void)loop_run(&t->loop);
    if (loop_fini(&t->loop) != 0)
        t->result = 1;
    int result = t->result;
    tls_context_unref(t->options.tls);
    mem_wipe_free(token);
    free(key);
    free(t);
    return result;
}
