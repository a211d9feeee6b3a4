/* What a new instance would be made with: asked of pg_config beside each server program, and of the disk. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/local.h"

#define CONTROL_SIZE 8192

/* ASK waits for one pg_config after the other, READ for the worker. */
struct offer_op {
    struct local_op op;
    struct work work;
    struct process *process;
    int probing; /* index of the program that is asked */
    int best;    /* index of the newest, -1 = none yet */
    int version;
    bool dumb; /* a program has no pg_config: which one would be taken is not known */
    char *share;
    char *extensions;
    uint64_t free_bytes;
    struct err err;
    runtime_offer_cb cb;
    void *data;
};

static void answer(struct offer_op *o)
{
    struct local *local = o->op.local;
    struct runtime_offer offer = {.version = o->version,
                                  .encoding = "UTF8",
                                  .extensions = o->extensions,
                                  .directory = local->directory,
                                  .free_bytes = o->free_bytes};
    if (o->best >= 0)
        offer.where = local->binaries[o->best].directory;
    bool failed = o->err.code != ERRC_NONE;
    o->cb(failed ? &o->err : NULL, failed ? NULL : &offer, o->data);
    free(o->share);
    free(o->extensions);
    local_op_end(&o->op);
    free(o);
}

/* ---- READ ---- */

/* default_version = '1.3'; false if there is none. */
static bool default_version(const char *path, char *ret, size_t size)
{
    char text[CONTROL_SIZE];
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    size_t length = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[length] = '\0';
    const char *at = text;
    while (at != NULL && strncmp(at, "default_version", 15) != 0) {
        at = strchr(at, '\n');
        at = at != NULL ? at + 1 : NULL;
    }
    const char *open = at != NULL ? strchr(at, '\'') : NULL,
               *close = open != NULL ? strchr(open + 1, '\'') : NULL;
    if (close == NULL || (size_t)(close - open) > size)
        return false;
    memcpy(ret, open + 1, (size_t)(close - open) - 1);
    ret[close - open - 1] = '\0';
    return true;
}

static void add_extension(yyjson_mut_doc *doc, const char *directory, const char *leaf)
{
    static const char end[] = ".control";
    char version[64];
    size_t length = strlen(leaf);
    if (length < sizeof end || strcmp(leaf + length - strlen(end), end) != 0 || strstr(leaf, "--") != NULL)
        return;
    char *path = mem_printf("%s/%s", directory, leaf);
    if (default_version(path, version, sizeof version)) {
        yyjson_mut_val *name = yyjson_mut_strncpy(doc, leaf, length - strlen(end));
        yyjson_mut_obj_add(yyjson_mut_doc_get_root(doc), name, yyjson_mut_strcpy(doc, version));
    }
    free(path);
}

static void read_extensions(struct offer_op *o)
{
    char *path = mem_printf("%s/extension", o->share);
    DIR *dir = opendir(path);
    struct dirent *entry;
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_doc_set_root(doc, yyjson_mut_obj(doc));
    if (dir == NULL)
        err_set(&o->err, ERRC_UNSUPPORTED, "cannot read %s, which pg_config names", path);
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        add_extension(doc, path, entry->d_name);
    if (dir != NULL)
        closedir(dir);
    o->extensions = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    free(path);
}

static void read_run(struct work *work)
{
    struct offer_op *o = work->data;
    struct statvfs fs;
    read_extensions(o);
    if (statvfs(o->op.local->directory, &fs) != 0)
        err_set_errno(&o->err, errno, "cannot see the free space of %s", o->op.local->directory);
    else
        o->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
}

static void read_done(struct work *work, int code)
{
    struct offer_op *o = work->data;
    if (code != 0 || o->op.canceled)
        err_set(&o->err, ERRC_CANCELED, "the runtime was closed");
    answer(o);
}

static void asked_all(struct offer_op *o)
{
    if (o->op.canceled)
        err_set(&o->err, ERRC_CANCELED, "the runtime was closed");
    else if (o->dumb || o->best < 0)
        err_set(&o->err, ERRC_UNSUPPORTED, "pg_config does not tell what a new instance would be made with");
    else if (work_start(o->op.local->loop, &o->work, read_run, read_done, o) == 0)
        return;
    else
        err_set(&o->err, ERRC_INTERNAL, "no worker to read extensions with");
    answer(o);
}

/* ---- ASK ---- */

static void ask_next(struct offer_op *o);

/* "PostgreSQL 15.20 (Debian 15.20-1)\n/usr/share/postgresql/15\n" */
static void learn(struct offer_op *o, const char *text)
{
    int major = 0, minor = 0;
    const char *share = strchr(text, '\n');
    if (sscanf(text, "PostgreSQL %d.%d", &major, &minor) < 1 || share == NULL || share[1] != '/') {
        o->dumb = true;
        return;
    }
    int version = major * 10000 + minor;
    if (major < LOCAL_OLDEST_VERSION || version <= o->version)
        return;
    o->version = version;
    o->best = o->probing;
    free(o->share);
    o->share = mem_strdup(share + 1);
    o->share[strcspn(o->share, "\n")] = '\0';
}

static void on_told(const struct process_result *result, void *data)
{
    struct offer_op *o = data;
    o->process = NULL;
    if (result->err.code != ERRC_NONE || result->exit_code != 0)
        o->dumb = true;
    else
        learn(o, result->out);
    o->probing++;
    ask_next(o);
}

static void ask_next(struct offer_op *o)
{
    struct local *local = o->op.local;
    if (o->op.canceled || o->dumb || o->probing >= local->binary_count) {
        asked_all(o);
        return;
    }
    char *program = mem_printf("%s/pg_config", local->binaries[o->probing].directory);
    const char *argv[] = {program, "--version", "--sharedir", NULL};
    const struct process_options options = {
        .argv = argv, .directory = "/", .timeout_ns = 10 * ENV_NS_PER_S, .capture_limit = 4096};
    int rc = process_start(local->loop, &options, on_told, o, &o->process, NULL);
    free(program);
    if (rc != 0) {
        o->dumb = true;
        asked_all(o);
    }
}

static void offer_start(struct local_op *op)
{
    ask_next(list_item(op, struct offer_op, op));
}

static void offer_cancel(struct local_op *op)
{
    struct offer_op *o = list_item(op, struct offer_op, op);
    if (o->process != NULL)
        process_cancel(o->process);
    else
        work_cancel(&o->work);
}

int local_offer(struct runtime *rt, runtime_offer_cb cb, void *data, struct err *err)
{
    struct local *local = (struct local *)rt;
    if (local->closing)
        return err_set(err, ERRC_CANCELED, "the runtime is being closed");
    struct offer_op *o = mem_zalloc(sizeof *o);
    o->best = -1;
    o->cb = cb;
    o->data = data;
    local_op_add(local, &o->op, NULL, offer_start, offer_cancel);
    return 0;
}
