#include "runtime/local.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/mem.h"

#define PACKAGED "/usr/lib/postgresql"

static bool has_program(const char *directory, const char *program)
{
    char *path = mem_printf("%s/%s", directory, program);
    bool found = access(path, X_OK) == 0;
    free(path);
    return found;
}

/* Adds the directory if it holds a server and is not known yet. */
static bool consider(struct local *local, const char *directory)
{
    char real[PATH_MAX];
    if (!has_program(directory, "postgres") || !has_program(directory, "initdb") ||
        realpath(directory, real) == NULL || local->binary_count == LOCAL_BINARIES_MAX)
        return false;
    for (int i = 0; i < local->binary_count; i++)
        if (strcmp(local->binaries[i].directory, real) == 0)
            return true;
    local->binaries[local->binary_count++] = (struct local_binary){mem_strdup(real), 0};
    return true;
}

static void consider_path(struct local *local)
{
    char *path = mem_strdup(local->loop->env->get(local->loop->env, "PATH"));
    char *rest = path;
    for (char *part; rest != NULL && (part = strsep(&rest, ":")) != NULL;)
        if (part[0] == '/')
            (void)consider(local, part);
    free(path);
}

static void consider_packages(struct local *local)
{
    DIR *dir = opendir(PACKAGED);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char *path = mem_printf("%s/%s/bin", PACKAGED, entry->d_name);
        (void)consider(local, path);
        free(path);
    }
    if (dir != NULL)
        closedir(dir);
}

int local_binaries_search(struct local *local, const char *directory, struct err *err)
{
    if (directory != NULL) {
        if (consider(local, directory))
            return 0;
        return err_set(
            err, ERRC_NOT_FOUND,
            "%s does not hold the programs initdb and postgres: name the bin directory of a PostgreSQL %d "
            "or newer",
            directory, LOCAL_OLDEST_VERSION);
    }
    consider_path(local);
    consider_packages(local);
    if (local->binary_count > 0)
        return 0;
    return err_set(err, ERRC_NOT_FOUND,
                   "no PostgreSQL server found (looked for initdb and postgres in PATH and " PACKAGED
                   "/*/bin): install it (Debian, Ubuntu: apt install postgresql) or name its bin directory");
}

int local_version_parse(const char *text)
{
    static const char mark[] = "(PostgreSQL) ";
    const char *at = strstr(text, mark);
    int major = 0;
    int minor = 0;
    if (at == NULL || sscanf(at + sizeof mark - 1, "%d.%d", &major, &minor) < 1 || major < 1 || major > 999)
        return 0;
    return major * 10000 + (minor >= 0 && minor < 10000 ? minor : 0);
}

static int too_old(const struct local *local, const struct local_binary *newest, int major, struct err *err)
{
    if (newest == NULL)
        return err_set(err, ERRC_UNSUPPORTED,
                       "%s/postgres does not tell its version: is it a PostgreSQL server?",
                       local->binaries[0].directory);
    if (major != 0)
        return err_set(
            err, ERRC_UNSUPPORTED,
            "the data directory was made by PostgreSQL %d, whose programs are not installed any more: "
            "install postgresql-%d or name its bin directory",
            major, major);
    return err_set(
        err, ERRC_UNSUPPORTED,
        "PostgreSQL %d.%d in %s is too old, %d or newer is needed: install a newer one or name its bin "
        "directory",
        newest->version / 10000, newest->version % 10000, newest->directory, LOCAL_OLDEST_VERSION);
}

static bool version_fits(const struct local_binary *b, int major)
{
    int its = b->version / 10000;
    return b->version > 0 && (major == 0 ? its >= LOCAL_OLDEST_VERSION : its == major);
}

const struct local_binary *local_binaries_pick(const struct local *local, int major, struct err *err)
{
    const struct local_binary *newest = NULL;
    const struct local_binary *fit = NULL;
    for (int i = 0; i < local->binary_count; i++) {
        const struct local_binary *b = &local->binaries[i];
        if (b->version <= 0)
            continue;
        if (newest == NULL || b->version > newest->version)
            newest = b;
        if (version_fits(b, major) && (fit == NULL || b->version > fit->version))
            fit = b;
    }
    if (fit == NULL)
        too_old(local, newest, major, err);
    return fit;
}

/* A directory with a server need not hold the other programs (links to some of them in a PATH). */
static bool has_both(const struct local_binary *b, const char *one, const char *other)
{
    return has_program(b->directory, one) && has_program(b->directory, other);
}

const struct local_binary *local_binaries_pick_member(const struct local *local, int major, struct err *err)
{
    const struct local_binary *any = local_binaries_pick(local, major, err), *fit = NULL;
    for (int i = 0; any != NULL && i < local->binary_count; i++) {
        const struct local_binary *b = &local->binaries[i];
        if (version_fits(b, major) && has_both(b, "pg_basebackup", "pg_rewind") &&
            (fit == NULL || b->version > fit->version))
            fit = b;
    }
    if (any != NULL && fit == NULL)
        err_set(err, ERRC_UNSUPPORTED,
                "%s lacks pg_basebackup or pg_rewind, which a shard of several instances needs: name the bin "
                "directory of a whole PostgreSQL",
                any->directory);
    return fit;
}

static bool has_clients(const struct local_binary *b)
{
    return has_both(b, "pg_dump", "psql");
}

const char *runtime_local_bin_directory(const struct runtime *rt)
{
    const struct local *local = (const struct local *)rt;
    const struct local_binary *best = NULL;
    /* a pg_dump that is older than the server refuses; before the first ensure no version is known */
    for (int i = 0; i < local->binary_count; i++) {
        const struct local_binary *b = &local->binaries[i];
        if (b->version >= 0 && has_clients(b) && (best == NULL || b->version > best->version))
            best = b;
    }
    return best != NULL ? best->directory : NULL;
}
