/* shardherd render: the Kubernetes objects that a manager would apply for a ShardedDatabase. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/yaml.h"
#include "k8s/access.h"
#include "k8s/yaml_json.h"
#include "runtime/kube_objects.h"

#define FILE_LIMIT (4u * 1024u * 1024u)

struct rendering {
    struct buf out;
    const char *path, *name_space, *image;
    int databases;
};

static int object_print(const struct kube_object *object, void *data, struct err *err)
{
    struct rendering *r = data;
    char *json = yyjson_mut_val_write(object->root, 0, NULL);
    yyjson_doc *doc = json != NULL ? yyjson_read(json, strlen(json), 0) : NULL;
    free(json);
    if (doc == NULL)
        return err_set(err, ERRC_INTERNAL, "an object could not be written");
    (void)buf_add_text(&r->out, "---\n");
    yaml_print(yyjson_doc_get_root(doc), &r->out);
    yyjson_doc_free(doc);
    return 0;
}

static int shard_print(struct rendering *r, struct kube_shard *shard, const char *name, struct err *err)
{
    shard->shard = name;
    char *full = kube_shard_name(shard);
    (void)buf_printf(
        &r->out,
        "# Shard %s. Secrets are made once by the manager, and are not printed: without a manager make\n"
        "# %s-credentials (key password) and, but for one instance with tls.mode off, %s-tls (tls.crt,\n"
        "# tls.key, ca.crt).\n",
        full, full, full);
    free(full);
    return kube_objects_each(shard, object_print, r, err);
}

static int named_shards(struct rendering *r, struct kube_shard *shard, yyjson_val *ranges, struct err *err)
{
    yyjson_val *range;
    size_t at, n;
    int rc = 0;
    yyjson_arr_foreach(ranges, at, n, range)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(range, "name"));
        if (rc == 0)
            rc = name != NULL ? shard_print(r, shard, name, err)
                              : err_set(err, ERRC_INVALID, "%s: spec.ranges[%zu] has no name", r->path, at);
    }
    return rc;
}

static int counted_shards(struct rendering *r, struct kube_shard *shard, yyjson_val *count, struct err *err)
{
    int64_t shards = yyjson_is_int(count) ? yyjson_get_sint(count) : 0;
    int rc = 0;
    if (shards < 1 || shards > 1024)
        return err_set(err, ERRC_INVALID,
                       "%s: spec.shards must be a number from 1 to 1024, or give spec.ranges", r->path);
    for (int64_t i = 1; rc == 0 && i <= shards; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "s%lld", (long long)i);
        rc = shard_print(r, shard, name, err);
    }
    return rc;
}

static int database_print(struct rendering *r, yyjson_val *root, struct err *err)
{
    yyjson_val *metadata = yyjson_obj_get(root, "metadata"), *spec = yyjson_obj_get(root, "spec");
    const char *name = yyjson_get_str(yyjson_obj_get(metadata, "name"));
    const char *name_space = yyjson_get_str(yyjson_obj_get(metadata, "namespace"));
    const char *policy = yyjson_get_str(yyjson_obj_get(spec, "deletionPolicy"));
    yyjson_val *ranges = yyjson_obj_get(spec, "ranges");
    if (name == NULL || spec == NULL)
        return err_set(err, ERRC_INVALID, "%s: a ShardedDatabase needs metadata.name and spec", r->path);
    struct kube_shard shard = {
        .database = name,
        .name_space = r->name_space != NULL ? r->name_space
                      : name_space != NULL  ? name_space
                                            : "default",
        .spec = spec,
        .image = r->image,
        .owns_data = policy != NULL && strcmp(policy, "delete") == 0,
    };
    r->databases++;
    return ranges != NULL ? named_shards(r, &shard, ranges, err)
                          : counted_shards(r, &shard, yyjson_obj_get(spec, "shards"), err);
}

static int document(struct yyjson_mut_doc *doc, struct yyjson_mut_val *root, void *data, struct err *err)
{
    yyjson_doc *copy = yyjson_mut_val_imut_copy(root, NULL);
    yyjson_val *top = yyjson_doc_get_root(copy);
    int rc = 0;
    (void)doc;
    if (yyjson_equals_str(yyjson_obj_get(top, "kind"), "ShardedDatabase"))
        rc = database_print(data, top, err);
    yyjson_doc_free(copy);
    return rc;
}

int command_render(const struct args *args)
{
    struct rendering r = {.path = args->words[0], .name_space = args_value(args, "namespace")};
    const char *image = args_value(args, "image");
    struct err err = {0};
    char *text = NULL;
    r.image = image != NULL ? image : "shardherd:latest";
    int rc = k8s_file_read(r.path, FILE_LIMIT, &text, &err);
    if (rc == 0)
        rc = yaml_json_read(text, strlen(text), r.path, document, &r, &err);
    if (rc == 0 && r.databases == 0)
        rc = err_set(&err, ERRC_INVALID, "%s holds no ShardedDatabase", r.path);
    if (rc == 0)
        fputs(buf_text(&r.out), stdout);
    free(text);
    buf_free(&r.out);
    return rc == 0 ? CLI_OK : session_fail(NULL, CLI_USAGE, "%s", err.message);
}
