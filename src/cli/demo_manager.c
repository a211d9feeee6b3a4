/* The demo's manager: this same program as a child process. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/demo_impl.h"

#define LOOK_AGAIN_NS (30 * ENV_NS_PER_MS)

static void on_ended(const struct process_result *result, void *data)
{
    struct demo *d = data;
    struct err err = {0};
    process_describe(result, "the manager", &err);
    d->manager = NULL;
    demo_manager_gone(d, &err);
}

int demo_manager_start(struct demo *d, struct err *err)
{
    char *state = mem_printf("state_directory=%s/state", d->directory);
    const char *argv[] = {"/proc/self/exe",
                          "manager",
                          "--set",
                          state,
                          "--set",
                          "listen.public_port=0",
                          "--set",
                          "listen.admin_port=0",
                          "--set",
                          "listen.metrics_port=0",
                          "--set",
                          "discovery.interval=1s",
                          "--set",
                          "polling.sizes=2s",
                          "--set",
                          "runtime.kind=local", /* whatever else this machine has */
                          NULL};
    const struct process_options options = {.argv = argv, .output_path = d->log_path, .detached = true};
    int code = process_start(&d->loop, &options, on_ended, d, &d->manager, err);
    free(state);
    return code;
}

void demo_manager_stop(struct demo *d, int number)
{
    if (d->manager != NULL)
        (void)process_signal(d->manager, number);
}

/* ---- is it there yet ---- */

static void read_ports(struct work *work)
{
    struct demo *d = work->data;
    char *path = mem_printf("%s/state/manager.json", d->directory);
    FILE *file = fopen(path, "re");
    size_t length = file != NULL ? fread(d->ports_text, 1, sizeof d->ports_text - 1, file) : 0;
    d->ports_text[length] = '\0';
    if (file != NULL)
        fclose(file);
    free(path);
}

static bool take_ports(struct demo *d)
{
    yyjson_doc *doc = yyjson_read(d->ports_text, strlen(d->ports_text), 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    int public_port = yyjson_get_int(yyjson_obj_get(root, "public"));
    int admin_port = yyjson_get_int(yyjson_obj_get(root, "admin"));
    yyjson_doc_free(doc);
    if (public_port == 0 || admin_port == 0)
        return false;
    d->public_url = mem_printf("http://127.0.0.1:%d", public_port);
    d->admin_url = mem_printf("http://127.0.0.1:%d", admin_port);
    return true;
}

static void on_readyz(struct demo *d, const struct err *err, yyjson_val *root)
{
    (void)root;
    if (demo_ending(d))
        return;
    if (err == NULL)
        demo_manager_ready(d);
    else
        loop_timer_start(&d->wait, LOOK_AGAIN_NS);
}

static void ports_read(struct demo *d)
{
    if (demo_ending(d))
        return;
    if (take_ports(d))
        demo_api(d, "GET", "/readyz", NULL, on_readyz);
    else
        loop_timer_start(&d->wait, LOOK_AGAIN_NS);
}

void demo_manager_look(struct demo *d)
{
    if (d->public_url == NULL)
        demo_job(d, read_ports, ports_read);
    else
        demo_api(d, "GET", "/readyz", NULL, on_readyz);
}
