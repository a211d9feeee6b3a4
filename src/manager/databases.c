#include "manager/databases.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "loop/work.h"
#include "operation/provision.h"

#define PASSWORD_LENGTH 32

struct secret {
    struct list node;
    char *database;
    char *owner;
    char *password;
};

struct databases {
    struct loop *loop;
    char *directory; /* <state>/secrets */
    struct store *store;
    struct fleet *fleet;
    struct operations *operations;
    struct list secrets;
    char instance_name[160]; /* for databases_spec_of() */
};

struct databases *databases_new(struct loop *loop, const char *state_directory, struct store *store,
                                struct fleet *fleet, struct operations *operations)
{
    struct databases *d = mem_zalloc(sizeof *d);
    d->loop = loop;
    d->directory = mem_printf("%s/secrets", state_directory);
    d->store = store;
    d->fleet = fleet;
    d->operations = operations;
    list_init(&d->secrets);
    return d;
}

void databases_free(struct databases *d)
{
    if (d == NULL)
        return;
    list_each(node, &d->secrets)
    {
        struct secret *s = list_item(node, struct secret, node);
        list_remove(&s->node);
        free(s->database);
        free(s->owner);
        mem_wipe_free(s->password);
        free(s);
    }
    free(d->directory);
    free(d);
}

static struct secret *find_secret(const struct databases *d, const char *database)
{
    list_each(node, &d->secrets)
    {
        struct secret *s = list_item(node, struct secret, node);
        if (strcmp(s->database, database) == 0)
            return s;
    }
    return NULL;
}

/* ---- the secret's file, on a worker ---- */

struct secret_job {
    struct work work;
    struct databases *databases;
    char *path;
    char *directory;
    char *database, *owner;
    char password[PASSWORD_LENGTH + 1]; /* a proposal; replaced by what the file has */
    struct err err;
    void (*done)(const struct err *err, void *data);
    void *data;
};

static int write_secret(struct secret_job *job)
{
    char *line = mem_printf("*:*:%s:%s:%s\n", job->database, job->owner, job->password);
    char *temporary = mem_printf("%s.new", job->path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t length = strlen(line);
    bool ok = fd >= 0 && write(fd, line, length) == (ssize_t)length && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (ok && rename(temporary, job->path) != 0) {
        ok = false;
        error = errno;
    }
    int directory = open(job->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
        fsync(directory);
        close(directory);
    }
    mem_wipe_free(line);
    free(temporary);
    return ok ? 0 : err_set_errno(&job->err, error, "%s", job->path);
}

static void run_secret(struct work *work)
{
    struct secret_job *job = work->data;
    char line[512];
    if (mkdir(job->directory, 0700) != 0 && errno != EEXIST) {
        err_set_errno(&job->err, errno, "%s", job->directory);
        return;
    }
    FILE *file = fopen(job->path, "re");
    if (file == NULL) {
        write_secret(job);
        return;
    }
    char *last = fgets(line, sizeof line, file) != NULL ? strrchr(line, ':') : NULL;
    fclose(file);
    size_t length = last != NULL ? strcspn(last + 1, "\n") : 0;
    if (length == 0 || length > PASSWORD_LENGTH)
        err_set(&job->err, ERRC_CORRUPT, "%s: not a password file of shardherd", job->path);
    else {
        memcpy(job->password, last + 1, length);
        job->password[length] = '\0';
    }
    explicit_bzero(line, sizeof line);
}

static void secret_done(struct work *work, int code)
{
    struct secret_job *job = work->data;
    struct databases *d = job->databases;
    if (code != 0)
        err_set(&job->err, ERRC_CANCELED, "canceled");
    if (job->err.code == ERRC_NONE && find_secret(d, job->database) == NULL) {
        struct secret *s = mem_zalloc(sizeof *s);
        *s = (struct secret){.database = mem_strdup(job->database),
                             .owner = mem_strdup(job->owner),
                             .password = mem_strdup(job->password)};
        list_append(&d->secrets, &s->node);
    }
    void (*done)(const struct err *, void *) = job->done;
    void *data = job->data;
    struct err err = job->err;
    explicit_bzero(job->password, sizeof job->password);
    free(job->path);
    free(job->directory);
    free(job->database);
    free(job->owner);
    free(job);
    done(err.code != ERRC_NONE ? &err : NULL, data);
}

static int ensure_secret(struct databases *d, const char *database, const char *owner,
                         void (*done)(const struct err *err, void *data), void *data)
{
    struct secret_job *job = mem_zalloc(sizeof *job);
    job->databases = d;
    job->directory = mem_strdup(d->directory);
    job->path = mem_printf("%s/%s.pgpass", d->directory, database);
    job->database = mem_strdup(database);
    job->owner = mem_strdup(owner);
    job->done = done;
    job->data = data;
    env_random_text(d->loop->env, job->password, PASSWORD_LENGTH);
    return work_start(d->loop, &job->work, run_secret, secret_done, job);
}

struct forget_job {
    struct work work;
    char *path;
};

static void run_forget(struct work *work)
{
    struct forget_job *job = work->data;
    unlink(job->path); /* a file that stays holds the password of a role that is gone */
}

static void forget_done(struct work *work, int code)
{
    struct forget_job *job = work->data;
    (void)code;
    free(job->path);
    free(job);
}

void databases_forget(struct databases *d, const char *name)
{
    struct secret *s = find_secret(d, name);
    if (s == NULL)
        return;
    list_remove(&s->node);
    free(s->database);
    free(s->owner);
    mem_wipe_free(s->password);
    free(s);
    struct forget_job *job = mem_zalloc(sizeof *job);
    job->path = mem_printf("%s/%s.pgpass", d->directory, name);
    if (work_start(d->loop, &job->work, run_forget, forget_done, job) != 0)
        forget_done(&job->work, ERRC_CANCELED);
}

int databases_spec_of(void *data, const struct fleet_database *db, const char *shard,
                      struct runtime_spec *ret, struct err *err)
{
    /* what a move needs of a server, and a subscription that starts at once */
    static const char *const settings[] = {"wal_retrieve_retry_interval = 500ms", NULL};
    struct databases *d = data;
    const struct secret *s = find_secret(d, db->name);
    if (s == NULL)
        return err_set(err, ERRC_UNAVAILABLE, "the password of database %s was not read yet", db->name);
    snprintf(d->instance_name, sizeof d->instance_name, "%s-%s-0", db->name, shard);
    *ret = (struct runtime_spec){.name = d->instance_name,
                                 .database = db->name,
                                 .shard = shard,
                                 .owner = s->owner,
                                 .owner_password = s->password,
                                 .settings = settings};
    return 0;
}

/* ---- what the model has of a specification ---- */

static void take_spec(struct fleet_database *db, const struct database_spec *spec)
{
    db->policy = spec->balance;
    db->policy_given = spec->balance_given;
    db->initial_shards = (unsigned)spec->shard_count;
}

void databases_set_defaults(struct databases *d, const struct balance_policy *defaults)
{
    list_each(node, &d->fleet->databases)
    {
        struct fleet_database *db = list_item(node, struct fleet_database, node);
        config_balance_follow(&db->policy, db->policy_given, defaults);
    }
    d->fleet->version++;
}

/* ---- reading everything at the start ---- */

struct loading {
    struct databases *databases;
    struct balance_policy defaults;
    void (*done)(const struct err *err, void *data);
    void *data;
    int outstanding;
    struct err err;
};

static void loaded_one(const struct err *err, void *data)
{
    struct loading *l = data;
    if (err != NULL && l->err.code == ERRC_NONE)
        l->err = *err;
    if (--l->outstanding > 0)
        return;
    l->done(l->err.code != ERRC_NONE ? &l->err : NULL, l->data);
    free(l);
}

static void load_spec(struct loading *l, const struct store_entry *e, const char *name)
{
    struct database_spec spec;
    struct err err = {0};
    if (database_spec_parse(e->value, strlen(e->value), e->key, &l->defaults, &spec, &err) != 0) {
        l->err = err;
        return;
    }
    struct fleet_database *db = fleet_find_database(l->databases->fleet, name);
    if (db == NULL)
        db = fleet_add_database(l->databases->fleet, name);
    free(db->spec_json);
    db->spec_json = mem_strdup(e->value);
    db->spec_revision = e->revision;
    take_spec(db, &spec);
    l->outstanding++;
    ensure_secret(l->databases, name, spec.owner, loaded_one, l);
    database_spec_free(&spec);
}

static void load_routing(struct loading *l, const struct store_entry *e, const char *name)
{
    struct routing *routing;
    struct err err = {0};
    if (routing_parse(e->value, strlen(e->value), &routing, &err) != 0) {
        err_wrap(&err, "%s", e->key);
        l->err = err;
        return;
    }
    struct fleet_database *db = fleet_find_database(l->databases->fleet, name);
    if (db == NULL)
        db = fleet_add_database(l->databases->fleet, name);
    routing_free(db->routing);
    db->routing = routing;
    db->routing_revision = e->revision;
}

static void on_listed(const struct err *err, const struct store_entry *entries, int count, void *data)
{
    struct loading *l = data;
    l->outstanding = 1;
    for (int i = 0; err == NULL && i < count; i++) {
        char name[STORE_KEY_MAX];
        snprintf(name, sizeof name, "%s", entries[i].key + strlen("db/"));
        char *slash = strchr(name, '/');
        if (slash == NULL)
            continue;
        *slash = '\0';
        if (strcmp(slash + 1, "spec") == 0)
            load_spec(l, &entries[i], name);
        else if (strcmp(slash + 1, "routing") == 0)
            load_routing(l, &entries[i], name);
    }
    loaded_one(err, l);
}

int databases_load(struct databases *d, const struct balance_policy *defaults,
                   void (*done)(const struct err *err, void *data), void *data, struct err *err)
{
    struct loading *l = mem_zalloc(sizeof *l);
    l->databases = d;
    l->defaults = *defaults;
    l->done = done;
    l->data = data;
    int rc = store_list(d->store, "db/", on_listed, l, err);
    if (rc != 0)
        free(l);
    return rc;
}

/* ---- applying ---- */

struct applying {
    struct databases *databases;
    struct database_spec spec;
    char *json;
    bool create;
    bool dry_run;
    databases_cb cb;
    void *data;
    struct loop_task task;
};

static void apply_end(struct applying *a, const struct err *err, const char *operation)
{
    struct databases_answer answer = {.err = err, .created = a->create, .operation = operation};
    a->cb(&answer, a->data);
    database_spec_free(&a->spec);
    free(a->json);
    free(a);
}

static int start_provision(struct databases *d, const struct database_spec *spec, struct operation **ret,
                           struct err *err)
{
    struct provision_shard *shards = mem_array((size_t)spec->shard_count, sizeof *shards);
    struct provision_table *tables = mem_array((size_t)spec->table_count, sizeof *tables);
    for (int i = 0; i < spec->shard_count; i++)
        shards[i] =
            (struct provision_shard){spec->shards[i].name, spec->shards[i].range, spec->shards[i].instance};
    for (int i = 0; i < spec->table_count; i++)
        tables[i] = (struct provision_table){spec->tables[i].name, spec->tables[i].key};
    struct provision_request request = {.database = spec->name,
                                        .shards = shards,
                                        .shard_count = spec->shard_count,
                                        .tables = tables,
                                        .table_count = spec->table_count,
                                        .schema = spec->schema,
                                        .owner = spec->owner};
    int rc = provision_start(d->operations, &request, ret, err);
    free(shards);
    free(tables);
    return rc;
}

static void spec_written(const struct err *err, int64_t revision, void *data)
{
    struct applying *a = data;
    struct databases *d = a->databases;
    struct operation *op = NULL;
    struct err local = {0};
    if (err != NULL) {
        apply_end(a, err, NULL);
        return;
    }
    struct fleet_database *db = fleet_find_database(d->fleet, a->spec.name);
    if (db == NULL)
        db = fleet_add_database(d->fleet, a->spec.name);
    free(db->spec_json);
    db->spec_json = mem_strdup(a->json);
    db->spec_revision = revision;
    take_spec(db, &a->spec);
    d->fleet->version++;
    if (db->routing == NULL && start_provision(d, &a->spec, &op, &local) != 0) {
        apply_end(a, &local, NULL);
        return;
    }
    apply_end(a, NULL, op != NULL ? op->id : NULL);
}

static void write_spec(struct applying *a)
{
    struct databases *d = a->databases;
    const struct fleet_database *db = fleet_find_database(d->fleet, a->spec.name);
    struct err err = {0};
    char key[STORE_KEY_MAX];
    snprintf(key, sizeof key, "db/%s/spec", a->spec.name);
    if (store_compare_and_swap(d->store, key, db != NULL ? db->spec_revision : 0, a->json, spec_written, a,
                               &err) != 0)
        apply_end(a, &err, NULL);
}

static void secret_ready(const struct err *err, void *data)
{
    if (err != NULL)
        apply_end(data, err, NULL);
    else
        write_spec(data);
}

static void apply_later(struct loop_task *task, void *data)
{
    struct applying *a = data;
    (void)task;
    if (a->dry_run)
        apply_end(a, NULL, NULL);
    else
        ensure_secret(a->databases, a->spec.name, a->spec.owner, secret_ready, a);
}

static int by_lo(const void *a, const void *b)
{
    const struct spec_shard *x = a, *y = b;
    return x->range.lo < y->range.lo ? -1 : x->range.lo > y->range.lo;
}

static bool same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static struct spec_shard *sorted_shards(const struct database_spec *spec)
{
    struct spec_shard *shards = mem_array((size_t)spec->shard_count, sizeof *shards);
    memcpy(shards, spec->shards, (size_t)spec->shard_count * sizeof *shards);
    qsort(shards, (size_t)spec->shard_count, sizeof *shards, by_lo);
    return shards;
}

/* In whatever order they are listed. */
static const char *shards_differ(const struct database_spec *old, const struct database_spec *next)
{
    if (old->shard_count != next->shard_count)
        return "the number of shards";
    const char *what = NULL;
    struct spec_shard *all = sorted_shards(old), *others = sorted_shards(next);
    for (int i = 0; what == NULL && i < old->shard_count; i++) {
        const struct spec_shard *a = &all[i], *b = &others[i];
        if (a->range.lo != b->range.lo || a->range.hi != b->range.hi)
            what = "a range of its shards";
        else if (strcmp(a->name, b->name) != 0)
            what = "the name of a shard";
        else if (!same_text(a->instance, b->instance))
            what = "the instance of a shard";
    }
    free(all);
    free(others);
    return what;
}

/* What an existing database's new specification may not change. */
static int check_change(const struct fleet_database *db, const struct database_spec *next,
                        const struct balance_policy *defaults, struct err *err)
{
    struct database_spec old;
    const char *what = NULL;
    if (db->spec_json == NULL ||
        database_spec_parse(db->spec_json, strlen(db->spec_json), "store", defaults, &old, NULL) != 0)
        return 0;
    if (old.table_count != next->table_count)
        what = "the tables";
    for (int i = 0; what == NULL && i < old.table_count; i++)
        if (strcmp(old.tables[i].name, next->tables[i].name) != 0 ||
            strcmp(old.tables[i].key, next->tables[i].key) != 0)
            what = "the tables";
    if (what == NULL && strcmp(old.owner, next->owner) != 0)
        what = "the owner";
    if (what == NULL && !same_text(old.schema, next->schema))
        what = "the schema";
    if (what == NULL)
        what = shards_differ(&old, next);
    database_spec_free(&old);
    if (what != NULL)
        return err_set(err, ERRC_CONFLICT,
                       "database %s exists: %s cannot be changed by applying it again (shards change by "
                       "split, merge and "
                       "move)",
                       db->name, what);
    return 0;
}

int databases_apply(struct databases *d, const char *name, const char *text, size_t length,
                    const struct balance_policy *defaults, bool dry_run, databases_cb cb, void *data,
                    struct err *err)
{
    struct applying *a = mem_zalloc(sizeof *a);
    struct buf json = {0};
    if (database_spec_parse(text, length, "request body", defaults, &a->spec, err) != 0) {
        free(a);
        return (int)err->code;
    }
    const struct fleet_database *db = fleet_find_database(d->fleet, a->spec.name);
    int rc = 0;
    if (name != NULL && strcmp(name, a->spec.name) != 0)
        rc = err_set(err, ERRC_INVALID, "metadata.name is %s, the address says %s", a->spec.name, name);
    else if (d->operations->services.term == 0)
        rc = err_set(err, ERRC_UNAVAILABLE, "this manager does not lead");
    else if (db != NULL)
        rc = check_change(db, &a->spec, defaults, err);
    if (rc != 0) {
        database_spec_free(&a->spec);
        free(a);
        return rc;
    }
    database_spec_print(&a->spec, &json);
    a->json = buf_take(&json);
    a->databases = d;
    a->create = db == NULL;
    a->dry_run = dry_run;
    a->cb = cb;
    a->data = data;
    a->task = (struct loop_task){.run = apply_later, .data = a};
    loop_defer(d->loop, &a->task);
    return 0;
}

/* ---- deleting ---- */

struct deleting {
    struct loop_task task;
    char operation[OPERATION_ID_SIZE];
    databases_cb cb;
    void *data;
};

static void delete_answer(struct loop_task *task, void *data)
{
    struct deleting del = *(struct deleting *)data;
    struct databases_answer answer = {.operation = del.operation};
    (void)task;
    free(data);
    del.cb(&answer, del.data);
}

int databases_delete(struct databases *d, const char *name, databases_cb cb, void *data, struct err *err)
{
    struct operation *op;
    if (retire_start(d->operations, name, &op, err) != 0)
        return (int)err->code;
    struct deleting *del = mem_zalloc(sizeof *del);
    snprintf(del->operation, sizeof del->operation, "%s", op->id);
    del->cb = cb;
    del->data = data;
    del->task = (struct loop_task){.run = delete_answer, .data = del};
    loop_defer(d->loop, &del->task);
    return 0;
}
