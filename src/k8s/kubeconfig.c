/*
 * kubeconfig files, with client-go's merge rules (tools/clientcmd/loader.go): of several files the first that
 * has an entry of a name wins it whole; paths count from their own file's folder; unknown fields are ignored.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/yaml_json.h"

#define FILE_LIMIT (4u * 1024u * 1024u)

/* One file that was read. */
struct file {
    char *path;
    char *directory; /* with the last slash, "" for the working directory */
    yyjson_doc *doc;
};

struct merge {
    struct file *files;
    size_t count;
};

static int take_document(struct yyjson_mut_doc *doc, struct yyjson_mut_val *root, void *data, struct err *err)
{
    struct file *file = data;
    (void)root;
    (void)err;
    if (file->doc == NULL)
        file->doc = yyjson_mut_doc_imut_copy(doc, NULL);
    return 0;
}

static int file_load(struct merge *m, const char *path, struct err *err)
{
    char *text = NULL;
    struct stat st;
    if (stat(path, &st) != 0 && errno == ENOENT)
        return 0;
    int rc = k8s_file_read(path, FILE_LIMIT, &text, err);
    if (rc != 0)
        return rc;
    struct file file = {.path = mem_strdup(path)};
    const char *slash = strrchr(path, '/');
    file.directory = slash != NULL ? mem_strndup(path, (size_t)(slash - path) + 1) : mem_strdup("");
    rc = yaml_json_read(text, strlen(text), path, take_document, &file, err);
    mem_wipe_free(text);
    if (rc == 0 && file.doc != NULL && !yyjson_is_obj(yyjson_doc_get_root(file.doc)))
        rc = err_set(err, ERRC_INVALID, "%s: not a kubeconfig: the top is no mapping", path);
    m->files = mem_resize(m->files, m->count + 1, sizeof *m->files);
    m->files[m->count++] = file;
    return rc;
}

static void merge_free(struct merge *m)
{
    for (size_t i = 0; i < m->count; i++) {
        free(m->files[i].path);
        free(m->files[i].directory);
        yyjson_doc_free(m->files[i].doc);
    }
    free(m->files);
}

static const char *text_of(yyjson_val *object, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return text != NULL && text[0] != '\0' ? text : NULL;
}

/* The entry `name` of the list, its inner object, from the first file that has it. */
static yyjson_val *entry(const struct merge *m, const char *list, const char *inner, const char *name,
                         const struct file **ret_file)
{
    for (size_t i = 0; i < m->count; i++) {
        yyjson_val *entries = yyjson_obj_get(yyjson_doc_get_root(m->files[i].doc), list);
        yyjson_val *item;
        size_t at, n;
        yyjson_arr_foreach(entries, at, n, item)
        {
            const char *found = text_of(item, "name");
            if (found != NULL && strcmp(found, name) == 0) {
                *ret_file = &m->files[i];
                return yyjson_obj_get(item, inner);
            }
        }
    }
    return NULL;
}

static const char *current_context(const struct merge *m)
{
    for (size_t i = 0; i < m->count; i++) {
        const char *name = text_of(yyjson_doc_get_root(m->files[i].doc), "current-context");
        if (name != NULL)
            return name;
    }
    return NULL;
}

static char *copy_text(yyjson_val *object, const char *name)
{
    return mem_strdup(text_of(object, name));
}

static char *copy_path(const struct file *file, yyjson_val *object, const char *name)
{
    const char *path = text_of(object, name);
    if (path == NULL)
        return NULL;
    return path[0] == '/' ? mem_strdup(path) : mem_printf("%s%s", file->directory, path);
}

/* Base64 in `name`, NULL if it is not there. */
static int copy_data(const struct file *file, yyjson_val *object, const char *name, char **ret,
                     struct err *err)
{
    const char *text = text_of(object, name);
    if (text == NULL)
        return 0;
    size_t length = strlen(text);
    char *out = mem_zalloc(length + 4);
    int n = length % 4 == 0 ? EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)text, (int)length)
                            : -1;
    if (n < 0) {
        mem_wipe_free(out);
        return err_set(err, ERRC_INVALID, "%s: %s is not base64", file->path, name);
    }
    size_t pad = (size_t)(text[length - 1] == '=') + (size_t)(length > 1 && text[length - 2] == '=');
    out[(size_t)n - pad] = '\0';
    *ret = out;
    return 0;
}

static char **copy_list(yyjson_val *list)
{
    size_t count = yyjson_arr_size(list), at, n, used = 0;
    yyjson_val *item;
    if (count == 0)
        return NULL;
    char **texts = mem_array(count + 1, sizeof *texts);
    yyjson_arr_foreach(list, at, n, item)
    {
        if (yyjson_is_str(item))
            texts[used++] = mem_strdup(yyjson_get_str(item));
    }
    return texts;
}

static char **copy_env(yyjson_val *list)
{
    size_t count = yyjson_arr_size(list), at, n, used = 0;
    yyjson_val *item;
    char **texts = mem_array(count + 1, sizeof *texts);
    yyjson_arr_foreach(list, at, n, item)
    {
        const char *name = text_of(item, "name"), *value = text_of(item, "value");
        if (name != NULL)
            texts[used++] = mem_printf("%s=%s", name, value != NULL ? value : "");
    }
    return texts;
}

static char **copy_extra(yyjson_val *extra)
{
    size_t count = 0, at, n, used = 0, i, k;
    yyjson_val *key, *values, *value;
    yyjson_obj_foreach(extra, at, n, key, values) count += yyjson_arr_size(values);
    if (count == 0)
        return NULL;
    char **texts = mem_array(2 * count + 1, sizeof *texts);
    yyjson_obj_foreach(extra, at, n, key, values)
    {
        yyjson_arr_foreach(values, i, k, value)
        {
            const char *text = yyjson_get_str(value);
            texts[used++] = mem_strdup(yyjson_get_str(key));
            texts[used++] = mem_strdup(text != NULL ? text : "");
        }
    }
    return texts;
}

static int read_exec(const struct file *file, yyjson_val *exec, struct k8s_access *a, struct err *err)
{
    const char *version = text_of(exec, "apiVersion"), *command = text_of(exec, "command");
    const char *mode = text_of(exec, "interactiveMode");
    if (exec == NULL || yyjson_is_null(exec))
        return 0;
    if (command == NULL)
        return err_set(err, ERRC_INVALID, "%s: exec names no command", file->path);
    if (version == NULL || (strcmp(version, "client.authentication.k8s.io/v1") != 0 &&
                            strcmp(version, "client.authentication.k8s.io/v1beta1") != 0))
        return err_set(
            err, ERRC_INVALID,
            "%s: exec of %s has apiVersion %s; client.authentication.k8s.io/v1 and v1beta1 are known",
            file->path, command, version != NULL ? version : "(none)");
    if (mode == NULL && strcmp(version, "client.authentication.k8s.io/v1") == 0)
        return err_set(err, ERRC_INVALID, "%s: exec of %s: v1 demands interactiveMode", file->path, command);
    if (mode != NULL && strcmp(mode, "Always") == 0)
        return err_set(err, ERRC_UNSUPPORTED, "%s: exec of %s wants a terminal (interactiveMode: Always)",
                       file->path, command);
    a->exec = mem_zalloc(sizeof *a->exec);
    a->exec->api_version = mem_strdup(version);
    a->exec->command = strchr(command, '/') != NULL ? copy_path(file, exec, "command") : mem_strdup(command);
    a->exec->args = copy_list(yyjson_obj_get(exec, "args"));
    a->exec->env = copy_env(yyjson_obj_get(exec, "env"));
    a->exec->directory = mem_strdup(file->directory);
    a->exec->install_hint = copy_text(exec, "installHint");
    a->exec->cluster_info = yyjson_get_bool(yyjson_obj_get(exec, "provideClusterInfo"));
    return 0;
}

static int read_cluster(const struct file *file, yyjson_val *cluster, struct k8s_access *a, struct err *err)
{
    a->server = copy_text(cluster, "server");
    a->ca_file = copy_path(file, cluster, "certificate-authority");
    a->tls_server_name = copy_text(cluster, "tls-server-name");
    a->proxy_url = copy_text(cluster, "proxy-url");
    a->insecure = yyjson_get_bool(yyjson_obj_get(cluster, "insecure-skip-tls-verify"));
    a->no_compression = yyjson_get_bool(yyjson_obj_get(cluster, "disable-compression"));
    if (a->server == NULL)
        return err_set(err, ERRC_INVALID, "%s: the cluster has no server", file->path);
    int rc = copy_data(file, cluster, "certificate-authority-data", &a->ca_pem, err);
    if (rc == 0 && a->insecure && (a->ca_pem != NULL || a->ca_file != NULL))
        rc = err_set(err, ERRC_INVALID,
                     "%s: insecure-skip-tls-verify and a certificate authority exclude each other",
                     file->path);
    return rc;
}

static int read_user(const struct file *file, yyjson_val *user, struct k8s_access *a, struct err *err)
{
    a->cert_file = copy_path(file, user, "client-certificate");
    a->key_file = copy_path(file, user, "client-key");
    a->token = copy_text(user, "token");
    a->token_file = copy_path(file, user, "tokenFile");
    a->username = copy_text(user, "username");
    a->password = copy_text(user, "password");
    a->as = copy_text(user, "as");
    a->as_uid = copy_text(user, "as-uid");
    a->as_groups = copy_list(yyjson_obj_get(user, "as-groups"));
    a->as_extra = copy_extra(yyjson_obj_get(user, "as-user-extra"));
    int rc = copy_data(file, user, "client-certificate-data", &a->cert_pem, err);
    if (rc == 0)
        rc = copy_data(file, user, "client-key-data", &a->key_pem, err);
    if (rc == 0)
        rc = read_exec(file, yyjson_obj_get(user, "exec"), a, err);
    if (rc == 0 &&
        (a->cert_pem != NULL || a->cert_file != NULL) != (a->key_pem != NULL || a->key_file != NULL))
        rc = err_set(err, ERRC_INVALID, "%s: a client certificate needs its key, and a key its certificate",
                     file->path);
    return rc;
}

static int missing(const char *what, const char *name, const char *paths, struct err *err)
{
    return err_set(err, ERRC_INVALID, "%s: no %s is named \"%s\"", paths, what, name);
}

static int merge_read(const struct merge *m, const char *paths, const char *context, struct k8s_access *a,
                      struct err *err)
{
    const struct file *file = NULL;
    if (context == NULL)
        context = current_context(m);
    if (context == NULL)
        return err_set(err, ERRC_INVALID, "%s: no current-context; name one", paths);
    yyjson_val *chosen = entry(m, "contexts", "context", context, &file);
    const char *cluster = text_of(chosen, "cluster"), *user = text_of(chosen, "user");
    if (chosen == NULL)
        return missing("context", context, paths, err);
    const char *name_space = text_of(chosen, "namespace");
    a->name_space = mem_strdup(name_space != NULL ? name_space : "default");
    a->source = mem_printf("%s, context %s", file->path, context);
    yyjson_val *found = cluster != NULL ? entry(m, "clusters", "cluster", cluster, &file) : NULL;
    if (found == NULL)
        return missing("cluster", cluster != NULL ? cluster : "", paths, err);
    int rc = read_cluster(file, found, a, err);
    if (rc != 0 || user == NULL)
        return rc;
    found = entry(m, "users", "user", user, &file);
    return found != NULL ? read_user(file, found, a, err) : missing("user", user, paths, err);
}

int kubeconfig_load(const char *paths, const char *context, struct k8s_access **ret, struct err *err)
{
    struct merge m = {0};
    int rc = 0;
    for (const char *at = paths; rc == 0 && *at != '\0';) {
        size_t n = strcspn(at, ":");
        char *path = mem_strndup(at, n);
        if (n > 0)
            rc = file_load(&m, path, err);
        free(path);
        at += n + (at[n] == ':');
    }
    struct k8s_access *a = mem_zalloc(sizeof *a);
    if (rc == 0 && m.count == 0)
        rc = err_set(err, ERRC_NOT_FOUND, "%s: no such kubeconfig", paths);
    if (rc == 0)
        rc = merge_read(&m, paths, context, a, err);
    merge_free(&m);
    if (rc == 0)
        *ret = a;
    else
        k8s_access_free(a);
    return rc;
}
