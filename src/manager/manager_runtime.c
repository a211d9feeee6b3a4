/*
 * Which runtime: what the configuration says, else Kubernetes in a pod, else what has made instances before,
 * else a container engine that answers and has the image, else this machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <dirent.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "manager/manager_impl.h"
#include "runtime/podman.h"
#include "version.h"

#define ENGINES_MAX   8
#define DEFAULT_IMAGE "shardherd:" SHARDHERD_VERSION
#define ENGINE_FILE   "engine" /* beside the instances: "podman /run/podman/podman.sock" */

struct engine {
    bool docker;
    char *socket;
};

struct engine_choice {
    struct engine list[ENGINES_MAX];
    int count, at;
    bool may_be_local;  /* when none answers or has the image */
    const char *reason; /* a constant: why containers at all */
    char why[256];      /* why not the engines that were asked */
};

static bool is(const char *text, const char *word)
{
    return strcmp(text, word) == 0;
}

static const char *kind_of(const struct engine *engine)
{
    return engine->docker ? "docker" : "podman";
}

bool manager_runs_servers(const struct manager *m)
{
    return is(m->runtime_kind, "local") || is(m->runtime_kind, "podman") || is(m->runtime_kind, "docker");
}

/* ---- where engines may be ---- */

static void engine_add(struct engine_choice *c, bool docker, const char *path)
{
    const char *at = text_starts_with(path, "unix://") ? path + strlen("unix://") : path;
    if (c->count == ENGINES_MAX)
        return;
    for (int i = 0; i < c->count; i++)
        if (is(c->list[i].socket, at))
            return;
    c->list[c->count++] = (struct engine){docker, mem_strdup(at)};
}

/* A socket that we may use. */
static bool is_there(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && access(path, R_OK | W_OK) == 0;
}

/* One flavour's usual places, or with `there` those of them that are there. */
static void engines_usual(struct manager *m, struct engine_choice *c, bool docker, bool there)
{
    struct env *env = m->options.env;
    const char *named = env->get(env, docker ? "DOCKER_HOST" : "CONTAINER_HOST");
    const char *run = env->get(env, "XDG_RUNTIME_DIR");
    char *own = run != NULL && geteuid() != 0
                    ? mem_printf("%s/%s", run, docker ? "docker.sock" : "podman/podman.sock")
                    : NULL;
    const char *const places[] = {named, own, docker ? "/run/docker.sock" : "/run/podman/podman.sock"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *path = places[i];
        if (path != NULL && text_starts_with(path, "unix://"))
            path += strlen("unix://");
        if (path != NULL && path[0] == '/' && (!there || is_there(path))) /* not tcp:// or ssh:// */
            engine_add(c, docker, path);
    }
    free(own);
}

/* ---- what is there from earlier ---- */

static char *directory_of(const struct manager *m, const char *name)
{
    return mem_printf("%s/%s", m->config.state_directory, name);
}

static bool has_instances(const char *directory)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    bool found = false;
    while (dir != NULL && !found && (entry = readdir(dir)) != NULL) {
        char *mark = mem_printf("%s/%s/instance.json", directory, entry->d_name);
        found = entry->d_name[0] != '.' && access(mark, F_OK) == 0;
        free(mark);
    }
    if (dir != NULL)
        closedir(dir);
    return found;
}

/* The engine whose containers they are. */
static bool engine_known(const char *directory, struct engine_choice *c)
{
    char *path = mem_printf("%s/" ENGINE_FILE, directory), line[512] = "";
    FILE *file = fopen(path, "re");
    bool found = file != NULL && fgets(line, sizeof line, file) != NULL;
    if (file != NULL)
        (void)fclose(file);
    free(path);
    line[strcspn(line, "\r\n")] = '\0';
    char *socket = strchr(line, ' ');
    if (!found || socket == NULL)
        return false;
    *socket++ = '\0';
    engine_add(c, is(line, "docker"), socket);
    return c->count > 0;
}

static void engine_remember(const struct manager *m, const struct engine *engine)
{
    char *directory = directory_of(m, "containers"), *path = mem_printf("%s/" ENGINE_FILE, directory);
    char *draft = mem_printf("%s.new", path);
    FILE *file = fopen(draft, "we");
    bool good = file != NULL && fprintf(file, "%s %s\n", kind_of(engine), engine->socket) > 0;
    if (file != NULL)
        good = fclose(file) == 0 && good;
    if (!good || rename(draft, path) != 0)
        log_event(LOG_WARN, "which engine runs the containers could not be written, ignoring", "file", path,
                  NULL);
    free(draft);
    free(path);
    free(directory);
}

/* ---- choosing ---- */

static void chosen(struct manager *m, const char *kind, const char *why)
{
    m->runtime_kind = kind;
    m->shards_in_kube = is(kind, "kubernetes") || is(kind, "cnpg");
    snprintf(m->runtime_text, sizeof m->runtime_text, "%s (%s)", kind, why);
}

static struct engine_choice *engines_new(struct manager *m, const char *reason)
{
    m->engines = mem_zalloc(sizeof *m->engines);
    m->engines->reason = reason;
    return m->engines;
}

/* Said by the configuration, or by what is there: no other will do. */
static void choose_engine(struct manager *m, bool docker, const char *reason)
{
    char *directory = directory_of(m, "containers");
    struct engine_choice *c = engines_new(m, reason);
    if (m->config.podman_socket != NULL)
        engine_add(c, docker, m->config.podman_socket);
    else if (!has_instances(directory) || !engine_known(directory, c))
        engines_usual(m, c, docker, true);
    if (c->count == 0)
        engines_usual(m, c, docker, false); /* what it says then names the usual place */
    c->count = 1;
    chosen(m, kind_of(&c->list[0]), reason);
    free(directory);
}

static void choose_by_looking(struct manager *m)
{
    const struct config *config = &m->config;
    char *local = directory_of(m, "instances"), *containers = directory_of(m, "containers");
    if (has_instances(local)) {
        chosen(m, "local", "not in a pod, and this machine's own instances are there");
    } else if (has_instances(containers)) {
        choose_engine(m, false, "not in a pod, and containers are there");
    } else if (config->runtime_bin_directory != NULL || config->runtime_user != NULL) {
        chosen(m, "local", "not in a pod, and runtime.bin_directory or runtime.user is set");
    } else {
        struct engine_choice *c = engines_new(m, "not in a pod");
        if (config->podman_socket != NULL)
            engine_add(c, false, config->podman_socket);
        else {
            engines_usual(m, c, false, true);
            engines_usual(m, c, true, true);
        }
        c->may_be_local = true;
        if (c->count == 0)
            chosen(m, "local", "not in a pod, no socket of podman or Docker");
        else
            chosen(m, "auto", "not in a pod, a container engine is asked");
    }
    free(local);
    free(containers);
}

void manager_runtime_choose(struct manager *m, bool pod, const char *pod_why)
{
    static const char *const words[] = {"local", "none", "kubernetes", "cnpg"};
    static const char said[] = "runtime.kind says so";
    const char *kind = m->config.runtime_kind;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (is(kind, words[i]))
            chosen(m, words[i], said);
    if (is(kind, "podman") || is(kind, "docker"))
        choose_engine(m, is(kind, "docker"), said);
    else if (is(kind, "auto") && (pod || m->config.in_pod))
        chosen(m, pod ? "kubernetes" : "local", pod_why);
    else if (is(kind, "auto"))
        choose_by_looking(m);
}

/* ---- opening ---- */

static void open_local(struct manager *m)
{
    struct err err = {0};
    char *directory = directory_of(m, "instances");
    const struct runtime_local_options options = {.directory = directory,
                                                  .bin_directory = m->config.runtime_bin_directory,
                                                  .address = m->config.runtime_address,
                                                  .first_port = m->config.runtime_first_port,
                                                  .user = m->config.runtime_user};
    int rc = runtime_local_open(&m->loop, &options, &m->runtime, &err);
    free(directory);
    if (rc != 0 && m->engines != NULL && m->engines->why[0] != '\0')
        err_wrap(&err, "%.150s", m->engines->why);
    manager_runtime_opened(m, rc != 0 ? &err : NULL);
}

static void engine_try(struct manager *m);

static void on_refused_closed(void *data)
{
    struct manager *m = data;
    char why[320];
    if (manager_now(m) >= MANAGER_STOPPING)
        return;
    if (++m->engines->at < m->engines->count) {
        engine_try(m);
        return;
    }
    snprintf(why, sizeof why, "%s; %s", m->engines->reason, m->engines->why);
    chosen(m, "local", why);
    log_event(LOG_INFO, "runtime", "runtime", m->runtime_text, NULL);
    open_local(m);
}

/* The first one is told: it is the one that was to be preferred. */
static void engine_refused(struct manager *m, const struct err *err)
{
    struct engine_choice *c = m->engines;
    struct runtime *runtime = m->runtime;
    if (c->why[0] == '\0')
        snprintf(c->why, sizeof c->why, "%s not taken: %.230s", kind_of(&c->list[c->at]), err->message);
    m->runtime = NULL;
    if (runtime != NULL)
        runtime_close(runtime, on_refused_closed, m);
    else
        on_refused_closed(m);
}

static void on_engine(const struct err *err, const char *name, void *data)
{
    struct manager *m = data;
    struct engine_choice *c = m->engines;
    const struct engine *engine = &c->list[c->at];
    if (manager_now(m) >= MANAGER_STOPPING)
        return;
    if (err != NULL && c->may_be_local) {
        engine_refused(m, err);
        return;
    }
    if (err != NULL && name == NULL) {
        manager_runtime_opened(m, err);
        return;
    }
    chosen(m, kind_of(engine), c->reason);
    size_t used = strlen(m->runtime_text);
    snprintf(m->runtime_text + used, sizeof m->runtime_text - used, ", %.80s at %.120s", name,
             engine->socket);
    log_event(LOG_INFO, "runtime", "runtime", m->runtime_text, NULL);
    if (err != NULL) /* servers that run go on; new ones will fail with the same words */
        log_event(LOG_WARN, "no new instances can be made", "err", err->message, NULL);
    engine_remember(m, engine);
    manager_runtime_opened(m, NULL);
}

static void engine_try(struct manager *m)
{
    struct err err = {0};
    const struct config *c = &m->config;
    const struct engine *engine = &m->engines->list[m->engines->at];
    char *directory = directory_of(m, "containers");
    const struct runtime_podman_options options = {
        .docker = engine->docker,
        .directory = directory,
        .socket = engine->socket,
        .image = c->runtime_image != NULL ? c->runtime_image : DEFAULT_IMAGE,
        .network = c->podman_network,
        .address = c->runtime_address,
        .first_port = c->runtime_first_port,
        .memory_bytes = (uint64_t)c->podman_memory,
        .cpus = c->podman_cpus,
        .pids = c->podman_pids,
        .ulimits = c->podman_ulimits,
    };
    int rc = runtime_podman_open(&m->loop, &options, &m->runtime, &err);
    free(directory);
    if (rc == 0)
        rc = runtime_podman_check(m->runtime, on_engine, m, &err);
    if (rc != 0)
        manager_runtime_opened(m, &err); /* the configuration is wrong: no reason to do something else */
}

void manager_runtime_open(struct manager *m)
{
    struct err err = {0};
    if (is(m->runtime_kind, "local"))
        open_local(m);
    else if (m->engines != NULL)
        engine_try(m);
    else
        manager_runtime_opened(m, m->shards_in_kube && manager_kube_runtime(m, &err) != 0 ? &err : NULL);
}

void manager_runtime_free(struct manager *m)
{
    for (int i = 0; m->engines != NULL && i < ENGINES_MAX; i++)
        free(m->engines->list[i].socket);
    free(m->engines);
    m->engines = NULL;
}
