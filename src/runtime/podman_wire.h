/*
 * podman_wire: what goes to the engine's API and what comes back. Pure.
 */
#ifndef RUNTIME_PODMAN_WIRE_H
#define RUNTIME_PODMAN_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct yyjson_val;

#define PODMAN_LABEL_DIRECTORY "shardherd.io/directory"
#define PODMAN_LABEL_INSTANCE  "shardherd.io/instance"
#define PODMAN_LABEL_DATABASE  "shardherd.io/database"
#define PODMAN_LABEL_SHARD     "shardherd.io/shard"
#define PODMAN_LABEL_REVISION  "shardherd.io/revision"

/* Where the volume is in the container; its owner in the image becomes that of the volume. */
#define PODMAN_VOLUME   "/var/lib/postgresql"
#define PODMAN_DATA     PODMAN_VOLUME "/pgdata"
#define PODMAN_FILES    "shardherd" /* folder in the volume */
#define PODMAN_PASSWORD PODMAN_VOLUME "/" PODMAN_FILES "/password"
#define PODMAN_SETTINGS PODMAN_VOLUME "/" PODMAN_FILES "/settings.conf"

/* ---- requests ---- */

struct podman_wanted {
    const char *instance, *database, *shard;
    const char *directory, *image, *network, *address;
    int port;
    uint64_t memory_bytes;
    double cpus;
    int pids;
    const char *ulimits;
};

/* "shardherd-<instance>": of the container and of the volume. free() it. */
char *podman_name(const char *instance);
/*
 * The body of the request that creates the container; free() it. It holds nothing secret. The label
 * "shardherd.io/revision" sums up the rest: another one means that the container is not what is wanted.
 */
char *podman_container_body(const struct podman_wanted *wanted);
void podman_revision(const struct podman_wanted *wanted, char ret[17]);
char *podman_volume_body(const struct podman_wanted *wanted);
/* "filters=..." for what has our label; free() it. */
char *podman_filters(const char *directory);

int podman_ulimits_check(const char *ulimits, struct err *err);
/* Letters, digits and . _ - / : @, so that it is a path of a URL as it is. */
int podman_image_check(const char *image, struct err *err);

/* A tar archive with a folder (0700) and files (0600) in it, all the server's (999). Names: at most 99 bytes
 * with the folder's. */
struct podman_file {
    const char *name;
    const char *text;
};
void podman_archive(struct buf *out, const char *folder, const struct podman_file *files, size_t count,
                    int64_t wall_us);

/* The lines of the settings' file: those that follow from the memory, then the given ones. */
void podman_settings(struct buf *out, uint64_t memory_bytes, char *const *settings);

/* ---- answers ---- */

/* What "/version" says. */
struct podman_engine {
    char name[96];  /* "Podman Engine 4.3.1", "Docker Engine 27.0.1" */
    unsigned minor; /* of the API to speak: 41, or the nearest that it speaks */
};
int podman_engine_parse(struct yyjson_val *root, struct podman_engine *ret, struct err *err);

/* What inspecting a container says; the texts are valid as long as the document. */
struct podman_container {
    const char *directory, *instance, *revision; /* labels, "" when missing */
    const char *status;                          /* "running", "exited" */
    bool running, paused;
    int exit_code;
    int64_t restarts;
    const char *error; /* "" = none */
};
int podman_container_parse(struct yyjson_val *root, struct podman_container *ret, struct err *err);

/* One of a list of containers. */
bool podman_listed_parse(struct yyjson_val *one, struct podman_container *ret);

/* The label of a volume that names its runtime, "" when missing; the folder of it on this machine, or "". */
const char *podman_volume_directory(struct yyjson_val *root);
const char *podman_volume_path(struct yyjson_val *root);

/*
 * An error from an answer that is none of success: "what: message of the engine (status 409)". 400 is
 * INVALID, 404 NOT_FOUND, 409 CONFLICT, 500 IO, others UNAVAILABLE.
 */
int podman_error(struct err *err, const char *what, int status, const char *body, size_t length);

/*
 * Of logs as the engine sends them (frames of 8 bytes and text, or bare text): the last line that tells of an
 * error, else the last line; "" if there is none. Control bytes become blanks.
 */
void podman_log_reason(const char *bytes, size_t length, char *ret, size_t size);

#endif
