#include "discovery/static_list.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "discovery/passfile.h"

#define DEFAULT_PORT 5432

void found_clear(struct found *found)
{
    free(found->name);
    free(found->database);
    free(found->shard);
    instance_access_clear(&found->access);
    *found = (struct found){0};
}

static void entry_clear(struct static_entry *entry)
{
    found_clear(&entry->found);
    free(entry->password_env);
    free(entry->password_file);
    free(entry->passfile);
}

void static_list_free(struct static_list *list)
{
    for (int i = 0; i < list->count; i++)
        entry_clear(&list->entries[i]);
    free(list->entries);
    *list = (struct static_list){0};
}

void static_list_copy(struct static_list *dst, const struct static_list *src)
{
    *dst = (struct static_list){mem_array((size_t)src->count + 1, sizeof *dst->entries), src->count};
    for (int i = 0; i < src->count; i++) {
        const struct static_entry *from = &src->entries[i];
        struct static_entry *to = &dst->entries[i];
        to->found.name = mem_strdup(from->found.name);
        to->found.database = mem_strdup(from->found.database);
        to->found.shard = mem_strdup(from->found.shard);
        instance_access_copy(&to->found.access, &from->found.access);
        to->password_env = mem_strdup(from->password_env);
        to->password_file = mem_strdup(from->password_file);
        to->passfile = mem_strdup(from->passfile);
    }
}

/* ---- one entry ---- */

static void replace(char **field, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    free(*field);
    *field = mem_strdup(value);
}

static int port_set(struct static_entry *entry, const char *text, struct err *err)
{
    int64_t port;
    if (!text_to_int64(text, &port) || port < 1 || port > 65535)
        return err_set(err, ERRC_INVALID, "\"%.20s\" is not a port", text);
    entry->found.access.port = (int)port;
    return 0;
}

static int dsn_option(struct static_entry *entry, const char *key, const char *value, struct err *err)
{
    struct instance_access *access = &entry->found.access;
    struct {
        const char *key;
        char **field;
    } const fields[] = {{"host", &access->host},        {"dbname", &access->dbname},
                        {"user", &access->user},        {"sslmode", &access->sslmode},
                        {"passfile", &entry->passfile}, {"sslrootcert", &access->sslrootcert},
                        {"sslcert", &access->sslcert},  {"sslkey", &access->sslkey}};
    if (strcmp(key, "password") == 0)
        return err_set(
            err, ERRC_INVALID,
            "the connection string holds a password: give it by password_env, password_file or passfile");
    if (strcmp(key, "port") == 0)
        return port_set(entry, value, err);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (strcmp(key, fields[i].key) == 0) {
            replace(fields[i].field, value);
            return 0;
        }
    return err_set(err, ERRC_INVALID, "the connection string sets \"%s\", which is not supported here", key);
}

static int dsn_apply(struct static_entry *entry, const char *dsn, struct err *err)
{
    if (dsn == NULL)
        return 0;
    /* libpq's own message may quote any part of the string, also a password */
    PQconninfoOption *options = PQconninfoParse(dsn, NULL);
    if (options == NULL)
        return err_set(err, ERRC_INVALID,
                       "the connection string is neither \"postgresql://user@host:port/database\" nor "
                       "\"host=... port=...\"");
    int rc = 0;
    for (const PQconninfoOption *o = options; rc == 0 && o->keyword != NULL; o++)
        if (o->val != NULL && o->val[0] != '\0')
            rc = dsn_option(entry, o->keyword, o->val, err);
    PQconninfoFree(options);
    return rc;
}

static int fields_apply(struct static_entry *entry, const struct discovery_entry *given, struct err *err)
{
    struct instance_access *access = &entry->found.access;
    replace(&access->host, given->host);
    replace(&access->dbname, given->dbname);
    replace(&access->user, given->user);
    replace(&access->sslmode, given->sslmode);
    replace(&access->sslrootcert, given->sslrootcert);
    replace(&access->sslcert, given->sslcert);
    replace(&access->sslkey, given->sslkey);
    replace(&entry->password_env, given->password_env);
    replace(&entry->password_file, given->password_file);
    replace(&entry->passfile, given->passfile);
    if (given->port < 0 || given->port > 65535)
        return err_set(err, ERRC_INVALID, "%d is not a port", given->port);
    if (given->port != 0)
        access->port = given->port;
    else if (access->port == 0)
        access->port = DEFAULT_PORT;
    return 0;
}

static int entry_check(struct static_entry *entry, struct err *err)
{
    struct found *found = &entry->found;
    struct instance_access *access = &found->access;
    int sources = (entry->password_env != NULL) + (entry->password_file != NULL) + (entry->passfile != NULL);
    if (access->host == NULL)
        return err_set(err, ERRC_INVALID, "there is no host");
    if (strchr(access->host, ',') != NULL)
        return err_set(err, ERRC_INVALID, "it names several hosts: make an entry of each");
    if (access->user == NULL)
        return err_set(err, ERRC_INVALID, "there is no user");
    if (sources > 1)
        return err_set(err, ERRC_INVALID, "give one of password_env, password_file and passfile");
    if ((access->sslcert != NULL) != (access->sslkey != NULL))
        return err_set(err, ERRC_INVALID, "give both sslcert and sslkey, or none of them");
    if (access->dbname == NULL)
        access->dbname = mem_strdup(found->database[0] != '\0' ? found->database : access->user);
    return 0;
}

static int entry_make(const struct discovery_entry *given, struct static_entry *entry, struct err *err)
{
    entry->found.name = mem_strdup(given->name);
    entry->found.database = mem_strdup(given->database != NULL ? given->database : "");
    entry->found.shard = mem_strdup(given->shard != NULL ? given->shard : "");
    int rc = dsn_apply(entry, given->dsn, err);
    if (rc == 0)
        rc = fields_apply(entry, given, err);
    return rc != 0 ? rc : entry_check(entry, err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int names_check(const struct discovery_entry *entries, int count, struct err *err)
{
    int rc = 0;
    const char **names = mem_array((size_t)count + 1, sizeof *names);
    for (int i = 0; i < count && rc == 0; i++) {
        names[i] = entries[i].name;
        if (names[i] == NULL || names[i][0] == '\0')
            rc = err_set(err, ERRC_INVALID, "static server %d has no name", i + 1);
    }
    if (rc == 0)
        qsort((void *)names, (size_t)count, sizeof *names, by_name);
    for (int i = 1; i < count && rc == 0; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            rc = err_set(err, ERRC_INVALID, "two static servers have the name \"%s\"", names[i]);
    free((void *)names);
    return rc;
}

int static_list_make(const struct discovery_entry *entries, int count, struct static_list *ret,
                     struct err *err)
{
    if (count > DISCOVERY_STATIC_MAX)
        return err_set(err, ERRC_LIMIT, "%d static servers, more than %d", count, DISCOVERY_STATIC_MAX);
    int rc = names_check(entries, count, err);
    if (rc != 0)
        return rc;
    struct static_list list = {mem_array((size_t)count + 1, sizeof *list.entries), count};
    for (int i = 0; i < count && rc == 0; i++) {
        rc = entry_make(&entries[i], &list.entries[i], err);
        if (rc != 0)
            err_wrap(err, "static server %s", entries[i].name);
    }
    if (rc == 0)
        *ret = list;
    else
        static_list_free(&list);
    return rc;
}

/* ---- secrets ---- */

void static_list_environment(struct static_list *list, struct env *env)
{
    for (int i = 0; i < list->count; i++) {
        struct static_entry *entry = &list->entries[i];
        if (entry->password_env == NULL)
            continue;
        const char *value = env->get(env, entry->password_env);
        if (value == NULL)
            err_set(&entry->found.err, ERRC_NOT_FOUND,
                    "the environment variable %s of its password is not set", entry->password_env);
        entry->found.access.password = mem_strdup(value);
    }
}

static void from_file(struct static_entry *entry)
{
    char *text = passfile_read(entry->password_file, &entry->found.err);
    if (text == NULL)
        return;
    entry->found.access.password = mem_strndup(text, strcspn(text, "\r\n"));
    mem_wipe_free(text);
}

static void from_passfile(struct static_entry *entry)
{
    struct instance_access *access = &entry->found.access;
    char *text = passfile_read(entry->passfile, &entry->found.err);
    if (text == NULL)
        return;
    access->password = passfile_lookup(text, access->host, access->port, access->dbname, access->user);
    if (access->password == NULL)
        err_set(&entry->found.err, ERRC_NOT_FOUND, "%s has no line for %s:%d:%s:%s", entry->passfile,
                access->host, access->port, access->dbname, access->user);
    mem_wipe_free(text);
}

void static_list_files(struct static_list *list)
{
    for (int i = 0; i < list->count; i++) {
        if (list->entries[i].password_file != NULL)
            from_file(&list->entries[i]);
        else if (list->entries[i].passfile != NULL)
            from_passfile(&list->entries[i]);
    }
}
