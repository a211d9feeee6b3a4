#include "runtime/local.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"

/* ---- the queue of operations ---- */

static bool name_is_busy(const struct local *local, const struct local_op *op)
{
    list_each(node, &local->ops)
    {
        const struct local_op *other = list_item(node, struct local_op, node);
        if (other == op)
            return false;
        if (strcmp(other->name, op->name) == 0)
            return true;
    }
    return false;
}

static void op_run(struct loop_task *task, void *data)
{
    (void)task;
    struct local_op *op = data;
    op->started = true;
    op->start(op);
}

void local_op_add(struct local *local, struct local_op *op, const char *name,
                  void (*start)(struct local_op *), void (*cancel)(struct local_op *))
{
    op->local = local;
    op->name = mem_strdup(name != NULL ? name : "");
    op->start = start;
    op->cancel = cancel;
    op->task.run = op_run;
    op->task.data = op;
    op->canceled = local->closing;
    list_append(&local->ops, &op->node);
    local->open++;
    if (op->name[0] == '\0' || !name_is_busy(local, op))
        loop_defer(local->loop, &op->task);
}

static void local_unhold(struct local *local)
{
    if (--local->open == 0 && local->closing)
        loop_defer(local->loop, &local->settle);
}

void local_op_end(struct local_op *op)
{
    struct local *local = op->local;
    list_remove(&op->node);
    list_each(node, &local->ops)
    {
        struct local_op *next = list_item(node, struct local_op, node);
        if (next->started || strcmp(next->name, op->name) != 0)
            continue;
        loop_defer(local->loop, &next->task); /* nothing if it is queued already */
        break;
    }
    free(op->name);
    local_unhold(local);
}

/* ---- servers ---- */

static void on_server_exit(const struct process_result *result, void *data)
{
    struct local_server *server = data;
    list_remove(&server->node);
    if (server->exited != NULL)
        server->exited(result, server->data);
    local_unhold(server->local);
    free(server);
}

static int server_start(struct local *local, const char *const *argv, const struct local_user *user,
                        const char *path, struct local_server **ret, struct err *err)
{
    struct local_server *server = mem_zalloc(sizeof *server);
    char *log = mem_printf("%s/log", path);
    const struct process_options options = {.argv = argv,
                                            .directory = path,
                                            .output_path = log,
                                            .uid = user->uid,
                                            .gid = user->gid,
                                            .detached = true};
    server->local = local;
    int rc = process_start(local->loop, &options, on_server_exit, server, &server->process, err);
    free(log);
    if (rc != 0) {
        free(server);
        return rc;
    }
    list_append(&local->servers, &server->node);
    local->open++;
    *ret = server;
    return 0;
}

int local_server_start(struct local *local, const struct local_binary *binary, const struct local_user *user,
                       const char *path, struct local_server **ret, struct err *err)
{
    char *program = mem_printf("%s/postgres", binary->directory);
    char *data = mem_printf("%s/data", path);
    const char *argv[] = {program, "-D", data, NULL};
    int rc = server_start(local, argv, user, path, ret, err);
    free(program);
    free(data);
    return rc;
}

/* Where the server's socket goes: beside the data, unless that path is too long for one. */
static char *socket_directory(const char *path)
{
    char *own = mem_printf("%s/member", path);
    if (strlen(own) + sizeof "/.s.PGSQL.65535" <= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return own;
    free(own);
    return mem_strdup("/tmp");
}

int local_agent_start(struct local *local, const struct local_binary *binary, const struct local_user *user,
                      const struct local_record *record, struct local_server **ret, struct err *err)
{
    char *path = local_path(local->directory, "", record->name, NULL);
    char *data = local_data_path(local->directory, record->name, true);
    char *token = mem_printf("%s/token", path), *password = mem_printf("%s/password", path);
    char *settings = mem_printf("%s/settings", path), *run = socket_directory(path);
    char *port = mem_printf("%d", record->port), *agent_port = mem_printf("%d", record->agent_port);
    const char *argv[] = {local->program,
                          "agent",
                          "--member",
                          record->name,
                          "--data",
                          data,
                          "--token-file",
                          token,
                          "--bin",
                          binary->directory,
                          "--password-file",
                          password,
                          "--run",
                          run,
                          "--settings",
                          settings,
                          "--listen",
                          record->host,
                          "--port",
                          port,
                          "--http-address",
                          LOCAL_AGENT_ADDRESS,
                          "--http-port",
                          agent_port,
                          "--stop-timeout",
                          "30s",
                          NULL};
    int rc = server_start(local, argv, user, path, ret, err);
    free(path);
    free(data);
    free(token);
    free(password);
    free(settings);
    free(run);
    free(port);
    free(agent_port);
    return rc;
}

/* ---- list ---- */

struct list_op {
    struct local_op op;
    struct work work;
    struct local_record *records;
    int count;
    struct local_agents agents; /* the runtime's, until this list is answered */
    struct err err;
    runtime_list_cb cb;
    void *data;
};

static void list_add(struct list_op *l, const char *name)
{
    struct local_record record = {0};
    /* a directory that someone else put here, or that vanishes right now, is no instance */
    if (local_record_load(l->op.local->directory, name, &record, NULL) != 0)
        return;
    if (record.creating) {
        local_record_clear(&record);
        return;
    }
    char *log = local_path(l->op.local->directory, "", name, "log");
    local_log_trim(log, LOCAL_LOG_MAX);
    free(log);
    l->records = mem_resize(l->records, (size_t)l->count + 1, sizeof *l->records);
    l->records[l->count++] = record;
}

/* Whether every member has its agent and watchdog among them. */
static bool list_find(struct list_op *l)
{
    bool all = true;
    for (int i = 0; i < l->count; i++)
        if (l->records[i].member) {
            local_agents_find(&l->agents, l->op.local->directory, &l->records[i]);
            all = all && l->records[i].agent_pid != 0 && l->records[i].watch_pid != 0;
        }
    return all;
}

/* Those of the list before are looked at again; all processes of the machine only if one is missing. */
static void list_agents(struct list_op *l)
{
    local_agents_again(&l->agents);
    if (list_find(l))
        return;
    local_agents_clear(&l->agents);
    local_agents_scan(&l->agents);
    (void)list_find(l);
}

static void list_run(struct work *work)
{
    struct list_op *l = work->data;
    const char *directory = l->op.local->directory;
    DIR *dir = opendir(directory);
    if (dir == NULL) {
        err_set_errno(&l->err, errno, "cannot read %s", directory);
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        if (text_is_name(entry->d_name))
            list_add(l, entry->d_name);
    closedir(dir);
    list_agents(l);
}

void local_instance_view(const struct local_record *record, const char *data_path,
                         struct runtime_instance *ret)
{
    bool own = record->database != NULL && record->database[0] != '\0';
    union {
        const char *read;
        char *write;
    } user = {.read = LOCAL_SUPERUSER}, dbname = {.read = own ? record->database : "postgres"},
      agent_host = {.read = record->member ? LOCAL_AGENT_ADDRESS : NULL};
    *ret = (struct runtime_instance){
        .name = record->name,
        .database = record->database,
        .shard = record->shard,
        .access = {.host = record->host,
                   .port = record->port,
                   .user = user.write,
                   .password = record->password,
                   .dbname = dbname.write,
                   .agent_host = agent_host.write,
                   .agent_port = record->agent_port,
                   .agent_token = record->token},
        .data_directory = data_path,
        .pid = record->pid,
        .member = record->member,
        .agent_pid = record->agent_pid,
    };
}

/* For the next list; of two at a time those of the one that ends last. */
static void agents_keep(struct list_op *l)
{
    local_agents_clear(&l->op.local->agents);
    l->op.local->agents = l->agents;
}

static void list_answer(struct list_op *l)
{
    struct runtime_instance *views = mem_array((size_t)l->count + 1, sizeof *views);
    char **paths = mem_array((size_t)l->count + 1, sizeof *paths);
    for (int i = 0; i < l->count; i++) {
        paths[i] = local_data_path(l->op.local->directory, l->records[i].name, l->records[i].member);
        local_instance_view(&l->records[i], paths[i], &views[i]);
    }
    bool failed = l->err.code != ERRC_NONE;
    l->cb(failed ? &l->err : NULL, failed ? NULL : views, failed ? 0 : l->count, l->data);
    for (int i = 0; i < l->count; i++) {
        free(paths[i]);
        local_record_clear(&l->records[i]);
    }
    free((void *)paths);
    free(views);
    free(l->records);
    agents_keep(l);
    local_op_end(&l->op);
    free(l);
}

static void list_done(struct work *work, int code)
{
    struct list_op *l = work->data;
    if (code != 0 || l->op.canceled)
        err_set(&l->err, ERRC_CANCELED, "the runtime was closed");
    list_answer(l);
}

static void list_start(struct local_op *op)
{
    struct list_op *l = list_item(op, struct list_op, op);
    l->agents = op->local->agents;
    op->local->agents = (struct local_agents){0};
    if (op->canceled)
        err_set(&l->err, ERRC_CANCELED, "the runtime was closed");
    else if (work_start(op->local->loop, &l->work, list_run, list_done, l) == 0)
        return;
    else
        err_set(&l->err, ERRC_INTERNAL, "no worker for the list of instances");
    list_answer(l);
}

static void list_cancel(struct local_op *op)
{
    work_cancel(&list_item(op, struct list_op, op)->work);
}

int local_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err)
{
    struct local *local = list_item(rt, struct local, base);
    if (local->closing)
        return err_set(err, ERRC_CLOSED, "the runtime is being closed");
    struct list_op *l = mem_zalloc(sizeof *l);
    l->cb = cb;
    l->data = data;
    local_op_add(local, &l->op, NULL, list_start, list_cancel);
    return 0;
}

/* ---- open and close ---- */

static void local_free(struct local *local)
{
    for (int i = 0; i < local->binary_count; i++)
        free(local->binaries[i].directory);
    pthread_mutex_destroy(&local->ports);
    local_agents_clear(&local->agents);
    free(local->directory);
    free(local->address);
    free(local->user_name);
    free(local->program);
    free(local);
}

static void on_settled(struct loop_task *task, void *data)
{
    (void)task;
    struct local *local = data;
    void (*closed)(void *) = local->closed;
    void *closed_data = local->closed_data;
    local_free(local);
    if (closed != NULL)
        closed(closed_data);
}

static void local_close(struct runtime *rt, void (*closed)(void *), void *data)
{
    struct local *local = list_item(rt, struct local, base);
    if (local->closing)
        return;
    local->closing = true;
    local->closed = closed;
    local->closed_data = data;
    list_each(node, &local->ops)
    {
        struct local_op *op = list_item(node, struct local_op, node);
        op->canceled = true;
        if (op->started)
            op->cancel(op);
    }
    /* those that an operation is making are released when it has ended them or let them go */
    list_each(node, &local->servers)
    {
        struct local_server *server = list_item(node, struct local_server, node);
        if (server->exited == NULL)
            process_release(server->process);
    }
    if (local->open == 0)
        loop_defer(local->loop, &local->settle);
}

static const struct runtime_backend backend = {
    .kind = "local",
    .ensure = local_ensure,
    .stop = local_stop,
    .remove = local_remove,
    .list = local_list,
    .space = local_space,
    .close = local_close,
    .offer = local_offer,
    .members = true,
};

/* The path of now: after an upgrade agents are started from the new file in our place. */
static char *own_program(void)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return mem_strdup("shardherd");
    path[n] = '\0';
    return mem_strdup(path);
}

/* mkdir -p; a new directory is ours alone, or as root such that the servers' user can pass. */
static int directory_make(const char *path, char **ret, struct err *err)
{
    char *part = mem_strdup(path);
    int rc = 0;
    for (char *slash = part + 1; slash != NULL && rc == 0;) {
        slash = strchr(slash, '/');
        if (slash != NULL)
            *slash = '\0';
        if (mkdir(part, geteuid() == 0 ? 0711 : 0700) != 0 && errno != EEXIST)
            rc = err_set_errno(err, errno, "cannot create %s", part);
        if (slash != NULL)
            *slash++ = '/';
    }
    free(part);
    char real[PATH_MAX];
    if (rc == 0 && realpath(path, real) == NULL)
        rc = err_set_errno(err, errno, "cannot use %s", path);
    if (rc == 0)
        *ret = mem_strdup(real);
    return rc;
}

static int options_check(const struct runtime_local_options *o, struct err *err)
{
    unsigned char bytes[16];
    const char *address = o->address != NULL ? o->address : LOCAL_ADDRESS;
    if (o->directory == NULL || o->directory[0] == '\0')
        return err_set(err, ERRC_INVALID, "no directory for the instances");
    if (inet_pton(AF_INET, address, bytes) != 1 && inet_pton(AF_INET6, address, bytes) != 1)
        return err_set(err, ERRC_INVALID, "\"%s\" is not an address: give numbers, such as 127.0.0.1",
                       address);
    if (strcmp(address, "0.0.0.0") == 0 || strcmp(address, "::") == 0)
        return err_set(err, ERRC_INVALID, "%s is every address: name the one that clients use", address);
    if (o->first_port < 0 || o->first_port > 65535)
        return err_set(err, ERRC_INVALID, "%d is not a port", o->first_port);
    return 0;
}

int runtime_local_open(struct loop *loop, const struct runtime_local_options *o, struct runtime **ret,
                       struct err *err)
{
    int rc = options_check(o, err);
    if (rc != 0)
        return rc;
    struct local *local = mem_zalloc(sizeof *local);
    local->base.backend = &backend;
    local->loop = loop;
    local->address = mem_strdup(o->address != NULL ? o->address : LOCAL_ADDRESS);
    local->first_port = o->first_port != 0 ? o->first_port : LOCAL_FIRST_PORT;
    local->user_name = mem_strdup(o->user);
    local->program = o->program != NULL ? mem_strdup(o->program) : own_program();
    local->settle.run = on_settled;
    local->settle.data = local;
    list_init(&local->ops);
    list_init(&local->servers);
    pthread_mutex_init(&local->ports, NULL);
    rc = local_binaries_search(local, o->bin_directory, err);
    if (rc == 0)
        rc = directory_make(o->directory, &local->directory, err);
    if (rc != 0) {
        local_free(local);
        return rc;
    }
    *ret = &local->base;
    return 0;
}
