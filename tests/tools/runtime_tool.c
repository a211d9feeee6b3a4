/* links: runtime */
/*
 * runtime_tool: the Kubernetes runtime as a program, for the tests in tests/kube.
 *
 *   runtime_tool KUBECONFIG DATABASE.json DIRECTORY TIMEOUT ensure|existing SHARD...  all at once
 *   runtime_tool KUBECONFIG DATABASE.json DIRECTORY TIMEOUT stop|remove INSTANCE...
 *   runtime_tool KUBECONFIG DATABASE.json DIRECTORY TIMEOUT list
 *   runtime_tool KUBECONFIG DATABASE.json DIRECTORY TIMEOUT mark INSTANCE...
 *
 * mark: standby of term 2; the first one now, one more at each SIGHUP, until SIGTERM.
 *
 * With "cnpg-" before the verb, shards are Clusters of CloudNativePG.
 *
 * SIGTERM closes the runtime while it works. Prints one JSON object per line: {"progress":...},
 * {"instance":...}, {"removed":...} or {"error":...}; exit code 1 when something failed. DATABASE.json "-":
 * there is no database. The image is "shardherd:test".
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "k8s/access.h"
#include "k8s/client.h"
#include "runtime/kubernetes.h"

struct tool {
    struct loop loop;
    struct loop_signal term, next;
    char **marks; /* to be said */
    struct k8s_client *client;
    struct runtime *runtime;
    char *object;
    char *name;
    int waiting;
    int result;
};

static void print(const char *kind, const char *first, const char *second)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    (void)yyjson_mut_obj_add_str(doc, root, kind, first);
    if (second != NULL)
        (void)yyjson_mut_obj_add_str(doc, root, "message", second);
    char *text = yyjson_mut_write(doc, 0, NULL);
    puts(text);
    (void)fflush(stdout);
    free(text);
    yyjson_mut_doc_free(doc);
}

static void print_instance(const struct runtime_instance *i)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    (void)yyjson_mut_obj_add_str(doc, root, "instance", i->name);
    (void)yyjson_mut_obj_add_str(doc, root, "database", i->database);
    (void)yyjson_mut_obj_add_str(doc, root, "shard", i->shard);
    (void)yyjson_mut_obj_add_str(doc, root, "host", i->access.host);
    (void)yyjson_mut_obj_add_int(doc, root, "port", i->access.port);
    (void)yyjson_mut_obj_add_str(doc, root, "user", i->access.user);
    (void)yyjson_mut_obj_add_str(doc, root, "password", i->access.password);
    (void)yyjson_mut_obj_add_str(doc, root, "dbname", i->access.dbname);
    (void)yyjson_mut_obj_add_str(doc, root, "sslmode", i->access.sslmode);
    (void)yyjson_mut_obj_add_str(doc, root, "sslrootcert", i->access.sslrootcert);
    (void)yyjson_mut_obj_add_str(doc, root, "peer_sslrootcert", i->access.peer_sslrootcert);
    if (i->access.sslcert != NULL) {
        (void)yyjson_mut_obj_add_str(doc, root, "sslcert", i->access.sslcert);
        (void)yyjson_mut_obj_add_str(doc, root, "sslkey", i->access.sslkey);
        (void)yyjson_mut_obj_add_str(doc, root, "peer_sslcert", i->access.peer_sslcert);
        (void)yyjson_mut_obj_add_str(doc, root, "peer_sslkey", i->access.peer_sslkey);
    }
    char *text = yyjson_mut_write(doc, 0, NULL);
    puts(text);
    (void)fflush(stdout);
    free(text);
    yyjson_mut_doc_free(doc);
}

static void client_closed(void *data)
{
    (void)data;
}

static void runtime_closed(void *data)
{
    struct tool *t = data;
    k8s_client_close(t->client, client_closed, t);
}

static void failed(struct tool *t, const struct err *err)
{
    print("error", err_code_name(err->code), err->message);
    t->result = 1;
}

static void close_once(struct tool *t)
{
    loop_signal_stop(&t->term);
    loop_signal_stop(&t->next);
    if (t->runtime != NULL)
        runtime_close(t->runtime, runtime_closed, t);
    t->runtime = NULL;
}

static void done_one(struct tool *t)
{
    if (--t->waiting == 0)
        close_once(t);
}

/* What runs is taken back. */
static void caught(struct loop_signal *s, int number, void *data)
{
    (void)s;
    (void)number;
    close_once(data);
}

static void on_instance(const struct err *err, const struct runtime_instance *instance, void *data)
{
    struct tool *t = data;
    if (err != NULL)
        failed(t, err);
    else
        print_instance(instance);
    done_one(t);
}

static void on_done(const struct err *err, void *data)
{
    struct tool *t = data;
    if (err != NULL)
        failed(t, err);
    done_one(t);
}

static void on_list(const struct err *err, const struct runtime_instance *instances, int count, void *data)
{
    struct tool *t = data;
    if (err != NULL)
        failed(t, err);
    for (int i = 0; i < count; i++)
        print_instance(&instances[i]);
    done_one(t);
}

static void mark_next(struct tool *t)
{
    if (*t->marks != NULL)
        runtime_mark(t->runtime, *t->marks++, false, 2);
}

static void more(struct loop_signal *s, int number, void *data)
{
    (void)s;
    (void)number;
    mark_next(data);
}

static int database(void *data, const char *name, struct kube_database *ret, struct err *err)
{
    struct tool *t = data;
    if (t->name == NULL || strcmp(name, t->name) != 0)
        return err_set(err, ERRC_NOT_FOUND, "there is no database %s", name);
    *ret = (struct kube_database){t->object, strlen(t->object)};
    return 0;
}

static void progress(void *data, const char *instance, const char *message)
{
    (void)data;
    print("progress", instance, message);
}

static int start(struct tool *t, const char *verb, const char *argument, struct err *err)
{
    char *name = NULL;
    int rc;
    t->waiting++;
    if (strcmp(verb, "ensure") == 0 || strcmp(verb, "existing") == 0) {
        name = mem_printf("%s-%s-0", t->name, argument);
        const struct runtime_spec spec = {.name = name,
                                          .database = t->name,
                                          .shard = argument,
                                          .owner = "app",
                                          .must_exist = strcmp(verb, "existing") == 0};
        rc = runtime_ensure(t->runtime, &spec, on_instance, t, err);
    } else if (strcmp(verb, "list") == 0) {
        rc = runtime_list(t->runtime, on_list, t, err);
    } else if (strcmp(verb, "stop") == 0) {
        rc = runtime_stop(t->runtime, argument, on_done, t, err);
    } else {
        rc = runtime_remove(t->runtime, argument, on_done, t, err);
    }
    free(name);
    return rc;
}

static int tool_open(struct tool *t, char **argv, struct err *err)
{
    const struct k8s_access_options access_options = {.kubeconfig = argv[1]};
    struct k8s_access *access;
    uint64_t timeout = 0;
    int rc = loop_init(&t->loop, env_system(), err);
    if (rc == 0 && strcmp(argv[2], "-") != 0)
        rc = k8s_file_read(argv[2], 1u << 20, &t->object, err);
    if (rc == 0 && !text_to_duration(argv[4], &timeout))
        rc = err_set(err, ERRC_INVALID, "no duration: %s", argv[4]);
    if (rc == 0)
        rc = k8s_access_load(env_system(), &access_options, &access, err);
    if (rc != 0)
        return rc;
    yyjson_doc *doc = t->object != NULL ? yyjson_read(t->object, strlen(t->object), 0) : NULL;
    t->name = mem_strdup(yyjson_get_str(yyjson_ptr_get(yyjson_doc_get_root(doc), "/metadata/name")));
    yyjson_doc_free(doc);
    t->client = k8s_client_new(&t->loop, access);
    const struct runtime_kubernetes_options options = {
        .cnpg = text_starts_with(argv[5], "cnpg-"),
        .client = t->client,
        .image = "shardherd:test",
        .directory = argv[3],
        .timeout_ns = timeout,
        .database = database,
        .progress = progress,
        .data = t,
    };
    return runtime_kubernetes_open(&t->loop, &options, &t->runtime, err);
}

int main(int argc, char **argv)
{
    struct tool t = {0};
    struct err err = {0};
    if (argc < 6) {
        (void)fprintf(stderr,
                      "usage: runtime_tool KUBECONFIG DATABASE.json DIRECTORY TIMEOUT VERB ARGUMENT...\n");
        return 2;
    }
    const char *verb = text_starts_with(argv[5], "cnpg-") ? argv[5] + 5 : argv[5];
    int rc = tool_open(&t, argv, &err);
    bool marks = strcmp(verb, "mark") == 0;
    t.marks = argv + 6;
    if (rc == 0 && marks)
        mark_next(&t);
    for (int i = 6; rc == 0 && !marks && i < argc; i++)
        rc = start(&t, verb, argv[i], &err);
    if (rc == 0 && argc == 6)
        rc = start(&t, verb, NULL, &err);
    if (rc != 0) {
        print("error", err_code_name(err.code), err.message);
        return 1;
    }
    (void)loop_signal_start(&t.loop, &t.term, SIGTERM, caught, &t, NULL);
    (void)loop_signal_start(&t.loop, &t.next, SIGHUP, more, &t, NULL);
    (void)loop_run(&t.loop);
    free(t.object);
    free(t.name);
    return loop_fini(&t.loop) == 0 ? t.result : 3;
}
