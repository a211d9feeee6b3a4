#include "runtime/local.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"

/* The mark by which remove knows its own. */
static const char kind[] = "shardherd-instance-1";

void local_record_clear(struct local_record *record)
{
    free(record->name);
    free(record->database);
    free(record->shard);
    free(record->owner);
    free(record->host);
    mem_wipe_free(record->password);
    mem_wipe_free(record->owner_password);
    mem_wipe_free(record->token);
    *record = (struct local_record){0};
}

int local_record_save(const char *path, const struct local_record *record, struct err *err)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "kind", kind);
    yyjson_mut_obj_add_str(doc, root, "state", record->creating ? "creating" : "ready");
    yyjson_mut_obj_add_str(doc, root, "name", record->name);
    yyjson_mut_obj_add_str(doc, root, "database", record->database);
    yyjson_mut_obj_add_str(doc, root, "shard", record->shard);
    yyjson_mut_obj_add_str(doc, root, "owner", record->owner);
    yyjson_mut_obj_add_str(doc, root, "host", record->host);
    yyjson_mut_obj_add_int(doc, root, "port", record->port);
    if (record->member) {
        yyjson_mut_obj_add_bool(doc, root, "member", true);
        yyjson_mut_obj_add_int(doc, root, "agent_port", record->agent_port);
        yyjson_mut_obj_add_int(doc, root, "major", record->major);
    }
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_PRETTY, NULL);
    yyjson_mut_doc_free(doc);
    if (text == NULL)
        return err_set(err, ERRC_INVALID, "instance %s: a name is not UTF-8", record->name);
    char *file = mem_printf("%s/instance.json", path);
    int rc = local_file_write(file, text, 0600, NULL, err);
    free(file);
    free(text);
    return rc;
}

static char *text_of(yyjson_val *root, const char *key)
{
    const char *text = yyjson_get_str(yyjson_obj_get(root, key));
    return text != NULL ? mem_strdup(text) : NULL;
}

static int fill(struct local_record *record, yyjson_val *root, const char *file, struct err *err)
{
    if (!yyjson_equals_str(yyjson_obj_get(root, "kind"), kind))
        return err_set(err, ERRC_REFUSED, "%s is not of shardherd", file);
    const char *state = yyjson_get_str(yyjson_obj_get(root, "state"));
    int64_t port = yyjson_get_sint(yyjson_obj_get(root, "port"));
    record->creating = state == NULL || strcmp(state, "ready") != 0;
    int64_t agent_port = yyjson_get_sint(yyjson_obj_get(root, "agent_port"));
    record->database = text_of(root, "database");
    record->shard = text_of(root, "shard");
    record->owner = text_of(root, "owner");
    record->host = text_of(root, "host");
    record->member = yyjson_get_bool(yyjson_obj_get(root, "member"));
    if (record->database == NULL || record->shard == NULL || record->owner == NULL || record->host == NULL ||
        port < 1 || port > 65535)
        return err_set(err, ERRC_CORRUPT, "%s lacks a name, the host or the port", file);
    if (record->member && (agent_port < 1 || agent_port > 65535))
        return err_set(err, ERRC_CORRUPT, "%s lacks the port of the agent", file);
    record->port = (int)port;
    record->agent_port = record->member ? (int)agent_port : 0;
    record->major = (int)yyjson_get_sint(yyjson_obj_get(root, "major"));
    return 0;
}

static int parse(struct local_record *record, const char *file, struct err *err)
{
    char *text = local_file_read(file, 65536, err);
    if (text == NULL)
        return err != NULL ? (int)err->code : ERRC_IO;
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    int rc = doc == NULL ? err_set(err, ERRC_CORRUPT, "%s is not JSON", file)
                         : fill(record, yyjson_doc_get_root(doc), file, err);
    yyjson_doc_free(doc);
    free(text);
    return rc;
}

/* First line of a small file, or NULL. */
static char *first_line(const char *directory, const char *name, const char *leaf)
{
    char *path = local_path(directory, "", name, leaf);
    char *text = local_file_read(path, 1024, NULL);
    free(path);
    if (text != NULL)
        text[strcspn(text, "\r\n")] = '\0';
    return text;
}

static int first_number(const char *directory, const char *name, const char *leaf)
{
    int64_t number = 0;
    char *line = first_line(directory, name, leaf);
    if (line == NULL || !text_to_int64(line, &number) || number < 0 || number > INT32_MAX)
        number = 0;
    free(line);
    return (int)number;
}

static void look_around(const char *directory, const char *name, struct local_record *record)
{
    const char *version = record->member ? "member/data/PG_VERSION" : "data/PG_VERSION";
    int major = first_number(directory, name, version);
    if (major != 0 || !record->member)
        record->major = major;
    record->token = record->member ? first_line(directory, name, "token") : NULL;
    record->password = first_line(directory, name, "password");
    record->owner_password = first_line(directory, name, "owner-password");
    int pid =
        first_number(directory, name, record->member ? "member/data/postmaster.pid" : "data/postmaster.pid");
    char *data = local_data_path(directory, name, record->member);
    if (pid != 0 && local_pid_alive(pid, data))
        record->pid = pid;
    free(data);
}

int local_record_load(const char *directory, const char *name, struct local_record *ret, struct err *err)
{
    struct local_record record = {0};
    struct err fault = {0};
    struct stat st;
    char *path = local_path(directory, "", name, NULL);
    char *file = local_path(directory, "", name, "instance.json");
    int rc;
    if (lstat(path, &st) != 0)
        rc = errno == ENOENT
                 ? err_set(&fault, ERRC_NOT_FOUND, "there is no instance %s in %s", name, directory)
                 : err_set_errno(&fault, errno, "cannot see %s", path);
    else
        rc = parse(&record, file, &fault);
    if (rc == ERRC_NOT_FOUND && lstat(path, &st) == 0)
        rc = err_set(
            &fault, ERRC_REFUSED,
            "%s has no instance.json, so shardherd did not make it: move it away or choose another name",
            path);
    if (rc == 0) {
        record.name = mem_strdup(name);
        look_around(directory, name, &record);
        if (!record.creating && record.password == NULL)
            rc = err_set(&fault, ERRC_CORRUPT, "%s/password cannot be read", path);
        else if (!record.creating && record.member && record.token == NULL)
            rc = err_set(&fault, ERRC_CORRUPT, "%s/token cannot be read", path);
    }
    free(path);
    free(file);
    if (rc == 0)
        *ret = record;
    else
        local_record_clear(&record);
    return rc != 0 ? err_copy(err, &fault) : 0;
}
