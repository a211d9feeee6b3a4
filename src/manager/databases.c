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
#include "base/text.h"
#include "loop/work.h"
#include "operation/provision.h"
#include "runtime/runtime.h"

#define PASSWORD_LENGTH 32

struct secret {
    struct list node;
    char *database;
    char *owner;
    char *password;
    char *members; /* password of the role shardherd on members of a shard; NULL = single instances */
};

struct databases {
    struct loop *loop;
    char *directory; /* <state>/secrets */
    struct store *store;
    struct fleet *fleet;
    struct operations *operations;
    struct list secrets;
    int jobs; /* on workers */
    void (*stopped)(void *data);
    void *stopped_data;
    char instance_name[160]; /* for databases_spec_of() */
};

struct databases *databases_new(struct loop *loop, const char *state_directory, struct store *store,
                                struct fleet *fleet, struct operations *operations)
{
    struct databases *d = mem_zalloc(sizeof *d);
    d->loop = loop;
    d->directory = state_directory != NULL ? mem_printf("%s/secrets", state_directory) : NULL;
    d->store = store;
    d->fleet = fleet;
    d->operations = operations;
    list_init(&d->secrets);
    return d;
}

/* ---- jobs ---- */

static int job_start(struct databases *d, struct work *work, void (*run)(struct work *),
                     void (*done)(struct work *, int), void *data)
{
    int rc = work_start(d->loop, work, run, done, data);
    d->jobs += rc == 0;
    return rc;
}

/* First in each job's done(). */
static void job_ended(struct databases *d)
{
    d->jobs--;
}

/* Last in each job's done(). */
static void maybe_stopped(struct databases *d)
{
    void (*stopped)(void *) = d->stopped;
    if (d->jobs > 0 || stopped == NULL)
        return;
    d->stopped = NULL;
    stopped(d->stopped_data);
}

bool databases_stop(struct databases *d, void (*stopped)(void *data), void *data)
{
    if (d->jobs == 0)
        return false;
    d->stopped = stopped;
    d->stopped_data = data;
    return true;
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
        mem_wipe_free(s->members);
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
    char members[PASSWORD_LENGTH + 1];  /* likewise, in a second line; "" = it needs none */
    struct err err;
    void (*done)(const struct err *err, void *data);
    void *data;
};

static const char members_start[] = "*:*:*:shardherd:";

static int write_secret(struct secret_job *job)
{
    bool two = job->members[0] != '\0';
    char *line = mem_printf("*:*:%s:%s:%s\n%s%s%s", job->database, job->owner, job->password,
                            two ? members_start : "", job->members, two ? "\n" : "");
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

/* What is behind the last colon of the line, which may be NULL. */
static bool take_password(const char *line, char ret[PASSWORD_LENGTH + 1])
{
    const char *last = line != NULL ? strrchr(line, ':') : NULL;
    size_t length = last != NULL ? strcspn(last + 1, "\n") : 0;
    if (length == 0 || length > PASSWORD_LENGTH)
        return false;
    memcpy(ret, last + 1, length);
    ret[length] = '\0';
    return true;
}

static void run_secret(struct work *work)
{
    struct secret_job *job = work->data;
    char line[512];
    if (job->path == NULL)
        return;
    if (mkdir(job->directory, 0700) != 0 && errno != EEXIST) {
        err_set_errno(&job->err, errno, "%s", job->directory);
        return;
    }
    FILE *file = fopen(job->path, "re");
    if (file == NULL) {
        write_secret(job);
        return;
    }
    bool good = take_password(fgets(line, sizeof line, file), job->password);
    bool second = fgets(line, sizeof line, file) != NULL && text_starts_with(line, members_start);
    if (good && second && job->members[0] != '\0')
        good = take_password(line, job->members);
    fclose(file);
    explicit_bzero(line, sizeof line);
    if (!good)
        err_set(&job->err, ERRC_CORRUPT, "%s: not a password file of shardherd", job->path);
    else if (!second && job->members[0] != '\0')
        write_secret(job); /* an older file: with both */
}

static void secret_job_free(struct secret_job *job)
{
    explicit_bzero(job->password, sizeof job->password);
    explicit_bzero(job->members, sizeof job->members);
    free(job->path);
    free(job->directory);
    free(job->database);
    free(job->owner);
    free(job);
}

static void secret_done(struct work *work, int code)
{
    struct secret_job *job = work->data;
    struct databases *d = job->databases;
    job_ended(d);
    if (code != 0)
        err_set(&job->err, ERRC_CANCELED, "canceled");
    if (job->err.code == ERRC_NONE && find_secret(d, job->database) == NULL) {
        struct secret *s = mem_zalloc(sizeof *s);
        *s = (struct secret){
            .database = mem_strdup(job->database),
            .owner = mem_strdup(job->owner),
            .password = job->path != NULL ? mem_strdup(job->password) : NULL,
            .members = job->path != NULL && job->members[0] != '\0' ? mem_strdup(job->members) : NULL};
        list_append(&d->secrets, &s->node);
    }
    void (*done)(const struct err *, void *) = job->done;
    void *data = job->data;
    struct err err = job->err;
    secret_job_free(job);
    done(err.code != ERRC_NONE ? &err : NULL, data);
    maybe_stopped(d);
}

static int ensure_secret(struct databases *d, const char *database, const char *owner, bool members,
                         void (*done)(const struct err *err, void *data), void *data)
{
    struct secret_job *job = mem_zalloc(sizeof *job);
    job->databases = d;
    job->directory = mem_strdup(d->directory);
    job->path = d->directory != NULL ? mem_printf("%s/%s.pgpass", d->directory, database) : NULL;
    job->database = mem_strdup(database);
    job->owner = mem_strdup(owner);
    job->done = done;
    job->data = data;
    env_random_text(d->loop->env, job->password, PASSWORD_LENGTH);
    if (members)
        env_random_text(d->loop->env, job->members, PASSWORD_LENGTH);
    int rc = job_start(d, &job->work, run_secret, secret_done, job);
    if (rc != 0)
        secret_job_free(job);
    return rc;
}

struct forget_job {
    struct work work;
    struct databases *databases;
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
    struct databases *d = job->databases;
    (void)code;
    job_ended(d);
    free(job->path);
    free(job);
    maybe_stopped(d);
}

void databases_forget(struct databases *d, const char *name)
{
    struct secret *s = find_secret(d, name);
    if (s != NULL) {
        list_remove(&s->node);
        free(s->database);
        free(s->owner);
        mem_wipe_free(s->password);
        mem_wipe_free(s->members);
        free(s);
    } /* else its documents went before this process began, and the file is left */
    if (d->directory == NULL)
        return;
    struct forget_job *job = mem_zalloc(sizeof *job);
    job->path = mem_printf("%s/%s.pgpass", d->directory, name);
    job->databases = d;
    if (job_start(d, &job->work, run_forget, forget_done, job) != 0) {
        free(job->path);
        free(job);
    }
}

/* Of members is also one that once had several instances; somebody else's server never is. */
static bool is_member(const struct fleet *fleet, const struct fleet_database *db, const char *name)
{
    const struct fleet_instance *i = fleet_find_instance(fleet, name);
    return i != NULL && (i->access.lent || i->access.agent_host != NULL) ? !i->access.lent
                                                                         : db->instances > 1;
}

int databases_spec_of(void *data, const struct fleet_database *db, const char *shard, int number,
                      struct runtime_spec *ret, struct err *err)
{
    /* what a move needs of a server, and a subscription that starts at once */
    static const char *const settings[] = {"wal_retrieve_retry_interval = 500ms", NULL};
    struct databases *d = data;
    const struct secret *s = find_secret(d, db->name);
    if (s == NULL)
        return err_set(err, ERRC_UNAVAILABLE, "the password of database %s was not read yet", db->name);
    snprintf(d->instance_name, sizeof d->instance_name, "%s-%s-%d", db->name, shard, number);
    *ret = (struct runtime_spec){.name = d->instance_name,
                                 .database = db->name,
                                 .shard = shard,
                                 .owner = s->owner,
                                 .owner_password = s->password,
                                 .settings = settings,
                                 .member = is_member(d->fleet, db, d->instance_name),
                                 .instances = db->instances,
                                 .password = s->members};
    return 0;
}

/* ---- what the model has of a specification ---- */

static void take_spec(struct fleet_database *db, const struct database_spec *spec)
{
    db->policy = spec->balance;
    db->policy_given = spec->balance_given;
    db->initial_shards = (unsigned)spec->shard_count;
    db->instances = (unsigned)spec->instances;
    memcpy(db->tags, spec->members, sizeof db->tags);
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

/* One specification, read on a worker: a large one takes longer than a turn may. */
struct load_job {
    struct work work;
    struct loading *loading;
    char *name, *key, *json;
    int64_t revision;
    struct database_spec spec;
    struct err err;
};

static void run_load(struct work *work)
{
    struct load_job *job = work->data;
    (void)database_spec_parse(job->json, strlen(job->json), job->key, &job->loading->defaults, &job->spec,
                              &job->err);
}

static void take_loaded(struct load_job *job)
{
    struct loading *l = job->loading;
    struct fleet_database *db = fleet_find_database(l->databases->fleet, job->name);
    if (db == NULL)
        db = fleet_add_database(l->databases->fleet, job->name);
    free(db->spec_json);
    db->spec_json = job->json;
    job->json = NULL;
    db->spec_revision = job->revision;
    take_spec(db, &job->spec);
    l->outstanding++;
    if (ensure_secret(l->databases, job->name, job->spec.owner, job->spec.instances > 1, loaded_one, l) !=
        0) {
        l->outstanding--;
        err_set(&job->err, ERRC_INTERNAL, "no worker");
    }
}

static void load_done(struct work *work, int code)
{
    struct load_job *job = work->data;
    struct loading *l = job->loading;
    struct databases *d = l->databases;
    struct err err = {0};
    job_ended(d);
    if (code != 0)
        err_set(&job->err, ERRC_CANCELED, "canceled");
    else if (job->err.code == ERRC_NONE)
        take_loaded(job);
    err = job->err;
    database_spec_free(&job->spec);
    free(job->name);
    free(job->key);
    free(job->json);
    free(job);
    loaded_one(err.code != ERRC_NONE ? &err : NULL, l);
    maybe_stopped(d);
}

static void load_spec(struct loading *l, const struct store_entry *e, const char *name)
{
    struct load_job *job = mem_zalloc(sizeof *job);
    job->loading = l;
    job->name = mem_strdup(name);
    job->key = mem_strdup(e->key);
    job->json = mem_strdup(e->value);
    job->revision = e->revision;
    l->outstanding++;
    if (job_start(l->databases, &job->work, run_load, load_done, job) != 0) {
        l->databases->jobs++;
        load_done(&job->work, ERRC_CANCELED);
    }
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

/*
 * Reading the text and comparing it with what is there take up to 30 ms for the largest texts, so both run on
 * a worker: READ, then, if the database exists, COMPARE; then the secret, the store, and the operation.
 */
struct applying {
    struct databases *databases;
    struct work work;
    char *name; /* that it must have; NULL = any */
    char *text;
    size_t length;
    struct balance_policy defaults;
    char *old_json;   /* what the new specification is compared with */
    int64_t revision; /* of it; 0 = the database is new */
    struct err err;   /* of the worker */
    struct database_spec spec;
    char *json;
    bool create;
    bool dry_run, resizes;
    databases_cb cb;
    void *data;
};

static void apply_free(struct applying *a)
{
    database_spec_free(&a->spec);
    free(a->name);
    free(a->text);
    free(a->old_json);
    free(a->json);
    free(a);
}

static void apply_end(struct applying *a, const struct err *err, const char *operation)
{
    struct databases_answer answer = {.err = err, .created = a->create, .operation = operation};
    a->cb(&answer, a->data);
    apply_free(a);
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

/* Of the revision that was compared with: another change meanwhile is a conflict. */
static void write_spec(struct applying *a)
{
    struct err err = {0};
    char key[STORE_KEY_MAX];
    snprintf(key, sizeof key, "db/%s/spec", a->spec.name);
    if (store_compare_and_swap(a->databases->store, key, a->revision, a->json, spec_written, a, &err) != 0)
        apply_end(a, &err, NULL);
}

static void secret_ready(const struct err *err, void *data)
{
    if (err != NULL)
        apply_end(data, err, NULL);
    else
        write_spec(data);
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
static int check_change(const struct database_spec *old, const struct database_spec *next, bool resizes,
                        struct err *err)
{
    const char *what = NULL;
    if (old->table_count != next->table_count)
        what = "the tables";
    for (int i = 0; what == NULL && i < old->table_count; i++)
        if (strcmp(old->tables[i].name, next->tables[i].name) != 0 ||
            strcmp(old->tables[i].key, next->tables[i].key) != 0)
            what = "the tables";
    if (what == NULL && !resizes && old->instances != next->instances)
        what = "the number of instances";
    if (what == NULL && strcmp(old->owner, next->owner) != 0)
        what = "the owner";
    if (what == NULL && !same_text(old->schema, next->schema))
        what = "the schema";
    if (what == NULL)
        what = shards_differ(old, next);
    if (what == NULL)
        return 0;
    return err_set(err, ERRC_CONFLICT,
                   "database %s exists: %s cannot be changed by applying it again (shards change by split, "
                   "merge and move)",
                   next->name, what);
}

static void run_compare(struct work *work)
{
    struct applying *a = work->data;
    struct database_spec old;
    if (database_spec_parse(a->old_json, strlen(a->old_json), "store", &a->defaults, &old, NULL) != 0)
        return; /* of an older version: nothing to compare with */
    (void)check_change(&old, &a->spec, a->resizes, &a->err);
    database_spec_free(&old);
}

static void apply_go_on(struct applying *a)
{
    if (a->err.code == ERRC_NONE && a->create)
        (void)database_spec_makeable(&a->spec, a->databases->operations->services.drive != NULL, &a->err);
    if (a->err.code != ERRC_NONE)
        apply_end(a, &a->err, NULL);
    else if (a->databases->operations->services.term == 0) {
        err_set(&a->err, ERRC_UNAVAILABLE, "this manager does not lead");
        apply_end(a, &a->err, NULL);
    } else if (a->dry_run)
        apply_end(a, NULL, NULL);
    else if (ensure_secret(a->databases, a->spec.name, a->spec.owner, a->spec.instances > 1, secret_ready,
                           a) != 0) {
        err_set(&a->err, ERRC_INTERNAL, "no worker");
        apply_end(a, &a->err, NULL);
    }
}

static void compare_done(struct work *work, int code)
{
    struct applying *a = work->data;
    struct databases *d = a->databases;
    job_ended(d);
    if (code != 0)
        err_set(&a->err, ERRC_CANCELED, "canceled");
    apply_go_on(a);
    maybe_stopped(d);
}

static void run_read(struct work *work)
{
    struct applying *a = work->data;
    struct buf json = {0};
    if (database_spec_parse(a->text, a->length, "request body", &a->defaults, &a->spec, &a->err) != 0)
        return;
    if (a->name != NULL && strcmp(a->name, a->spec.name) != 0)
        err_set(&a->err, ERRC_INVALID, "metadata.name is %s, the address says %s", a->spec.name, a->name);
    database_spec_print(&a->spec, &json);
    a->json = buf_take(&json);
}

static void read_done(struct work *work, int code)
{
    struct applying *a = work->data;
    struct databases *d = a->databases;
    job_ended(d);
    if (code != 0)
        err_set(&a->err, ERRC_CANCELED, "canceled");
    const struct fleet_database *db =
        a->err.code == ERRC_NONE ? fleet_find_database(d->fleet, a->spec.name) : NULL;
    a->create = db == NULL && a->err.code == ERRC_NONE;
    a->revision = db != NULL ? db->spec_revision : 0;
    a->old_json = db != NULL ? mem_strdup(db->spec_json) : NULL;
    if (a->old_json != NULL && job_start(d, &a->work, run_compare, compare_done, a) == 0)
        return;
    if (a->old_json != NULL)
        err_set(&a->err, ERRC_INTERNAL, "no worker");
    apply_go_on(a);
    maybe_stopped(d);
}

/* Members of shards may come and go. */
static bool resizes(const struct databases *d)
{
    const struct operation_services *s = &d->operations->services;
    return s->drive != NULL && s->runtime != NULL && s->runtime->backend->resizes;
}

int databases_apply(struct databases *d, const char *name, const char *text, size_t length,
                    const struct balance_policy *defaults, bool dry_run, databases_cb cb, void *data,
                    struct err *err)
{
    if (d->operations->services.term == 0)
        return err_set(err, ERRC_UNAVAILABLE, "this manager does not lead");
    struct applying *a = mem_zalloc(sizeof *a);
    a->databases = d;
    a->name = mem_strdup(name);
    a->text = mem_alloc(length + 1);
    memcpy(a->text, text, length);
    a->length = length;
    a->defaults = *defaults;
    a->dry_run = dry_run;
    a->resizes = resizes(d);
    a->cb = cb;
    a->data = data;
    if (job_start(d, &a->work, run_read, read_done, a) == 0)
        return 0;
    apply_free(a);
    return err_set(err, ERRC_INTERNAL, "no worker");
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
