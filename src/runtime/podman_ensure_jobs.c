#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/podman_ensure.h"

void podman_ensure_look(struct work *work)
{
    struct podman_ensure *e = work->data;
    const char *directory = e->op.podman->directory;
    char *new = local_path(directory, ".new-", e->op.name, NULL);
    char *old = local_path(directory, ".old-", e->op.name, NULL);
    int rc = local_record_load(directory, e->op.name, &e->record, &e->job_err);
    if (rc == ERRC_NOT_FOUND)
        err_clear(&e->job_err);
    e->exists = rc == 0 && !e->record.creating;
    e->leftover = (rc == 0 && e->record.creating) || access(new, F_OK) == 0 || access(old, F_OK) == 0;
    free(new);
    free(old);
}

/* The ports that instances of ours have in their instance.json, running or not. */
static bool port_is_ours(const struct podman_ensure *e, int port)
{
    const char *directory = e->op.podman->directory;
    DIR *dir = opendir(directory);
    bool taken = false;
    const struct dirent *entry;
    while (dir != NULL && !taken && (entry = readdir(dir)) != NULL) {
        struct local_record other = {0};
        if (!text_is_name(entry->d_name) || strcmp(entry->d_name, e->op.name) == 0 ||
            local_record_load(directory, entry->d_name, &other, NULL) != 0)
            continue;
        taken = other.port == port;
        local_record_clear(&other);
    }
    if (dir != NULL)
        closedir(dir);
    return taken;
}

static int port_pick(struct podman_ensure *e)
{
    int first = e->op.podman->options.first_port;
    for (int port = first; port <= 65535; port++) {
        struct err why = {0};
        if (port_is_ours(e, port))
            continue;
        int rc = local_port_try(e->record.host, port, &why);
        if (rc == 0) {
            e->record.port = port;
            return 0;
        }
        if (rc != ERRC_CONFLICT)
            return err_copy(&e->job_err, &why);
    }
    return err_set(&e->job_err, ERRC_LIMIT, "no free port from %d to 65535 on %s", first, e->record.host);
}

/* Everything in ".new-<name>", then one rename: there is never an instance without its mark. */
static int directory_fill(struct podman_ensure *e)
{
    struct err *err = &e->job_err;
    const char *directory = e->op.podman->directory;
    char *new = local_path(directory, ".new-", e->op.name, NULL);
    char *path = local_path(directory, "", e->op.name, NULL);
    char *file = mem_printf("%s/password", new), *text = mem_printf("%s\n", e->record.password);
    int rc = mkdir(new, 0700) != 0 ? err_set_errno(err, errno, "cannot create %s", new) : 0;
    if (rc == 0)
        rc = local_file_write(file, text, 0600, NULL, err);
    if (rc == 0)
        rc = local_record_save(new, &e->record, err);
    if (rc == 0 && rename(new, path) != 0)
        rc = err_set_errno(err, errno, "cannot rename %s", new);
    if (rc == 0)
        rc = local_directory_sync(directory, err);
    if (rc != 0)
        (void)local_tree_delete(new, NULL);
    mem_wipe_free(text);
    free(file);
    free(path);
    free(new);
    return rc;
}

void podman_ensure_prepare(struct work *work)
{
    struct podman_ensure *e = work->data;
    struct podman *p = e->op.podman;
    local_record_clear(&e->record);
    e->record = (struct local_record){.name = mem_strdup(e->op.name),
                                      .database = mem_strdup(e->database),
                                      .shard = mem_strdup(e->shard),
                                      .owner = mem_strdup(e->owner),
                                      .host = mem_strdup(p->address),
                                      .password = mem_strdup(e->password),
                                      .creating = true};
    pthread_mutex_lock(&p->ports);
    if (port_pick(e) == 0)
        (void)directory_fill(e);
    pthread_mutex_unlock(&p->ports);
}

void podman_ensure_room(struct work *work)
{
    struct podman_ensure *e = work->data;
    if (e->volume_path[0] != '\0' && access(e->volume_path, F_OK) == 0)
        (void)local_disk_check(e->volume_path, e->min_free_bytes, &e->job_err);
}

void podman_ensure_commit(struct work *work)
{
    struct podman_ensure *e = work->data;
    char *path = local_path(e->op.podman->directory, "", e->op.name, NULL);
    bool creating = e->record.creating;
    e->record.creating = false;
    if (local_record_save(path, &e->record, &e->job_err) != 0)
        e->record.creating = creating;
    free(path);
}
