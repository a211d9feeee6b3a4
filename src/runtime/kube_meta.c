#include "runtime/kube_meta.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/kube_objects.h"

static yyjson_val *metadata(yyjson_val *object)
{
    return yyjson_obj_get(object, "metadata");
}

static const char *text_in(yyjson_val *map, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(map, name));
    return text != NULL ? text : "";
}

const char *kube_label(yyjson_val *object, const char *name)
{
    return text_in(yyjson_obj_get(metadata(object), "labels"), name);
}

const char *kube_annotation(yyjson_val *object, const char *name)
{
    return text_in(yyjson_obj_get(metadata(object), "annotations"), name);
}

const char *kube_uid(yyjson_val *object)
{
    return text_in(metadata(object), "uid");
}

int kube_members_of(yyjson_val *set)
{
    const char *text = kube_annotation(set, KUBE_INSTANCES_ANNOTATION);
    return text[0] >= '1' && text[0] <= '9' && text[1] == '\0' ? text[0] - '0' : 0;
}

static bool is_owner(yyjson_val *reference, const struct kube_owner *owner)
{
    if (strcmp(text_in(reference, "kind"), "ShardedDatabase") != 0 ||
        !text_starts_with(text_in(reference, "apiVersion"), "shardherd.io/"))
        return false;
    return owner->uid != NULL ? strcmp(text_in(reference, "uid"), owner->uid) == 0
                              : strcmp(text_in(reference, "name"), owner->database) == 0;
}

bool kube_is_ours(yyjson_val *object, const struct kube_owner *owner)
{
    yyjson_val *reference;
    size_t at, n;
    if (strcmp(kube_label(object, "app.kubernetes.io/managed-by"), "shardherd") != 0 ||
        strcmp(kube_label(object, "shardherd.io/database"), owner->database) != 0 ||
        strcmp(kube_label(object, "shardherd.io/shard"), owner->shard != NULL ? owner->shard : "") != 0)
        return false;
    yyjson_arr_foreach(yyjson_obj_get(metadata(object), "ownerReferences"), at, n, reference)
    {
        if (is_owner(reference, owner))
            return true;
    }
    const char *annotated = kube_annotation(object, KUBE_OWNER_ANNOTATION);
    return annotated[0] != '\0' && (owner->uid == NULL || strcmp(annotated, owner->uid) == 0);
}

char *kube_shard_selector(const char *database, const char *shard)
{
    return mem_printf("labelSelector=shardherd.io%%2Fdatabase%%3D%s%%2Cshardherd.io%%2Fshard%%3D%s", database,
                      shard);
}

/* ---- Secrets ---- */

static void add(yyjson_mut_doc *doc, yyjson_mut_val *to, const char *name, const char *value)
{
    (void)yyjson_mut_obj_add_strcpy(doc, to, name, value);
}

static void add_base64(yyjson_mut_doc *doc, yyjson_mut_val *to, const struct kube_secret_item *item)
{
    if (item->value == NULL) {
        (void)yyjson_mut_obj_add_null(doc, to, item->key);
        return;
    }
    size_t length = strlen(item->value);
    unsigned char *text = mem_alloc(4 * ((length + 2) / 3) + 1);
    (void)EVP_EncodeBlock(text, (const unsigned char *)item->value, (int)length);
    add(doc, to, item->key, (char *)text);
    mem_wipe_free((char *)text);
}

static void add_metadata(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct kube_secret *s)
{
    yyjson_mut_val *meta = yyjson_mut_obj_add_obj(doc, root, "metadata");
    add(doc, meta, "name", s->name);
    add(doc, meta, "namespace", s->name_space);
    yyjson_mut_val *labels = yyjson_mut_obj_add_obj(doc, meta, "labels");
    add(doc, labels, "app.kubernetes.io/name", "postgresql");
    add(doc, labels, "app.kubernetes.io/managed-by", "shardherd");
    add(doc, labels, "shardherd.io/database", s->owner.database);
    if (s->owner.shard != NULL)
        add(doc, labels, "shardherd.io/shard", s->owner.shard);
    if (s->label != NULL)
        add(doc, labels, s->label, "true");
    add(doc, yyjson_mut_obj_add_obj(doc, meta, "annotations"), KUBE_OWNER_ANNOTATION, s->owner.uid);
    if (!s->owned)
        return;
    yyjson_mut_val *owner = yyjson_mut_arr_add_obj(doc, yyjson_mut_obj_add_arr(doc, meta, "ownerReferences"));
    add(doc, owner, "apiVersion", "shardherd.io/v1alpha1");
    add(doc, owner, "kind", "ShardedDatabase");
    add(doc, owner, "name", s->owner.database);
    add(doc, owner, "uid", s->owner.uid);
}

char *kube_secret_json(const struct kube_secret *s)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    add(doc, root, "apiVersion", "v1");
    add(doc, root, "kind", "Secret");
    add_metadata(doc, root, s);
    add(doc, root, "type", s->type);
    yyjson_mut_val *data = yyjson_mut_obj_add_obj(doc, root, "data");
    for (size_t i = 0; i < s->count; i++)
        add_base64(doc, data, &s->items[i]);
    char *json = yyjson_mut_val_write(root, 0, NULL);
    yyjson_mut_doc_free(doc);
    return json;
}

char *kube_secret_patch(const char *version, const char *time, const struct kube_secret_item *items,
                        size_t count)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *meta = yyjson_mut_obj_add_obj(doc, root, "metadata");
    add(doc, meta, "resourceVersion", version);
    add(doc, yyjson_mut_obj_add_obj(doc, meta, "annotations"), KUBE_WRITTEN_ANNOTATION, time);
    yyjson_mut_val *data = yyjson_mut_obj_add_obj(doc, root, "data");
    for (size_t i = 0; i < count; i++)
        add_base64(doc, data, &items[i]);
    char *json = yyjson_mut_val_write(root, 0, NULL);
    yyjson_mut_doc_free(doc);
    return json;
}

char *kube_secret_value(yyjson_val *secret, const char *key)
{
    yyjson_val *value = yyjson_obj_get(yyjson_obj_get(secret, "data"), key);
    size_t length = yyjson_get_len(value);
    if (!yyjson_is_str(value) || length == 0 || length % 4 != 0 || length > 1u << 20)
        return NULL;
    const char *text = yyjson_get_str(value);
    char *out = mem_zalloc(length / 4 * 3 + 1);
    int n = EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)text, (int)length);
    n -= (text[length - 1] == '=') + (text[length - 2] == '=');
    if (n <= 0 || memchr(out, '\0', (size_t)n) != NULL) {
        mem_wipe_free(out);
        return NULL;
    }
    while (n > 0 && (out[n - 1] == '\n' || out[n - 1] == '\r'))
        n--;
    out[n] = '\0';
    return out;
}
