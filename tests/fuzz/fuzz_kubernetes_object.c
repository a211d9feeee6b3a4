/* links: discovery */
/*
 * Objects of a cluster as anybody may have written them: the trim functions keep texts of bearable length,
 * the entries made of them have names and hosts, and no password of an application's URL is kept.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "discovery/application_object.h"
#include "discovery/kubernetes_entry.h"
#include "discovery/kubernetes_read.h"
#include "discovery/kubernetes_usage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct cluster_object *(*trim_cb)(struct yyjson_val *json);

static void check_entries(struct cluster_object **objects, size_t count)
{
    const struct cluster_view view = {(const struct cluster_object *const *)objects, count, "herd", true};
    struct kubernetes_entries entries = kubernetes_entries_make(&view);
    for (size_t i = 0; i < entries.count; i++) {
        const struct kubernetes_entry *e = &entries.items[i];
        if (e->name == NULL || e->name[0] == '\0' || e->host == NULL || e->port < 1 || e->port > 65535)
            abort();
        if (e->secret != NULL && (e->user_key == NULL || e->pass_key == NULL))
            abort();
    }
    kubernetes_entries_free(&entries);
}

static void check_application(const char *kind, yyjson_val *root)
{
    struct application_object *o = application_object_make(kind, root);
    for (size_t i = 0; o != NULL && i < o->variable_count; i++) {
        const char *text = o->variables[i].text;
        /* a user, an '@', but nothing between: the password was cut */
        const char *at =
            text != NULL && strncmp(text, "postgresql://", 13) == 0 ? strchr(text + 13, '@') : NULL;
        if (at != NULL && memchr(text + 13, ':', (size_t)(at - text - 13)) != NULL)
            abort();
    }
    application_object_free(o);
}

static void each_value(const char *key, const char *value, void *data)
{
    (void)data;
    if (key == NULL || value == NULL)
        abort();
    char *kept = env_keep(ENV_URL, value);
    struct env_target target;
    if (kept != NULL && !env_url_parse(kept, &target))
        abort(); /* what is kept can be read again */
    if (kept != NULL)
        env_target_free(&target);
    mem_wipe_free(kept);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const trim_cb trims[] = {cluster_pod, cluster_stateful_set, cluster_service, cluster_cnpg,
                                    cluster_slice};
    struct cluster_object *objects[5];
    double cpu, memory;
    size_t count = 0;
    yyjson_doc *doc = yyjson_read((const char *)data, size, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    for (size_t i = 0; root != NULL && i < 5; i++) {
        struct cluster_object *o = trims[i](root);
        if (o != NULL)
            objects[count++] = o;
    }
    check_entries(objects, count);
    for (size_t i = 0; i < count; i++)
        free(objects[i]);
    if (root != NULL) {
        check_application("Deployment", root);
        check_application("CronJob", root);
    }
    yyjson_doc_free(doc);
    (void)kubernetes_read_parse(READ_SECRET, (const char *)data, size, each_value, NULL);
    (void)kubernetes_read_parse(READ_CONFIG_MAP, (const char *)data, size, each_value, NULL);
    (void)kubernetes_usage_parse((const char *)data, size, &cpu, &memory);
    return 0;
}
