#include "runtime/podman_wire.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "runtime/kube_objects.h"

#define API_MINOR    41            /* podman 4, Docker 20.10 */
#define STOP_SECONDS 75            /* longer than the agent gives the server */
#define SHM_BYTES    (256ll << 20) /* parallel queries; the engines' 64 MiB are too small for some */
#define SERVER_PORT  5432          /* in a network of its own */
#define SERVER_ID    999           /* as in pods: the owner of data in PostgreSQL's usual images */
#define TAR_BLOCK    512

typedef yyjson_mut_val *mut;

/* ---- requests ---- */

char *podman_name(const char *instance)
{
    return mem_printf("shardherd-%s", instance);
}

static bool is_host(const struct podman_wanted *w)
{
    return strcmp(w->network, "host") == 0;
}

static void add_labels(yyjson_mut_doc *doc, mut to, const struct podman_wanted *w, const char *revision)
{
    mut labels = yyjson_mut_obj_add_obj(doc, to, "Labels");
    yyjson_mut_obj_add_str(doc, labels, PODMAN_LABEL_DIRECTORY, w->directory);
    yyjson_mut_obj_add_str(doc, labels, PODMAN_LABEL_INSTANCE, w->instance);
    yyjson_mut_obj_add_str(doc, labels, PODMAN_LABEL_DATABASE, w->database);
    yyjson_mut_obj_add_str(doc, labels, PODMAN_LABEL_SHARD, w->shard);
    if (revision != NULL)
        yyjson_mut_obj_add_str(doc, labels, PODMAN_LABEL_REVISION, revision);
}

static void add_arguments(yyjson_mut_doc *doc, mut root, const struct podman_wanted *w)
{
    mut entry = yyjson_mut_obj_add_arr(doc, root, "Entrypoint"),
        cmd = yyjson_mut_obj_add_arr(doc, root, "Cmd");
    char *listen = mem_printf("--listen=%s", is_host(w) ? w->address : "*");
    char *port = mem_printf("--port=%d", is_host(w) ? w->port : SERVER_PORT);
    yyjson_mut_arr_add_str(doc, entry, "shardherd");
    yyjson_mut_arr_add_str(doc, cmd, "agent");
    yyjson_mut_arr_add_str(doc, cmd, "--data=" PODMAN_DATA);
    yyjson_mut_arr_add_str(doc, cmd, "--run=/tmp");
    yyjson_mut_arr_add_str(doc, cmd, "--settings=" PODMAN_SETTINGS);
    yyjson_mut_arr_add_str(doc, cmd, "--password-file=" PODMAN_PASSWORD);
    yyjson_mut_arr_add_strcpy(doc, cmd, listen);
    yyjson_mut_arr_add_strcpy(doc, cmd, port);
    yyjson_mut_arr_add_str(doc, cmd, "--http-address=127.0.0.1"); /* the host's network: nobody else's */
    yyjson_mut_arr_add_str(doc, cmd, "--http-port=0");
    free(listen);
    free(port);
}

static void add_ulimits(yyjson_mut_doc *doc, mut host, const char *ulimits)
{
    char *copy = mem_strdup(ulimits), *rest = NULL;
    mut list = yyjson_mut_obj_add_arr(doc, host, "Ulimits");
    for (char *one = strtok_r(copy, ", ", &rest); one != NULL; one = strtok_r(NULL, ", ", &rest)) {
        char *soft = strchr(one, '='), *hard = soft != NULL ? strchr(soft, ':') : NULL;
        if (soft == NULL)
            continue;
        *soft++ = '\0';
        if (hard != NULL)
            *hard++ = '\0';
        mut limit = yyjson_mut_arr_add_obj(doc, list);
        yyjson_mut_obj_add_strcpy(doc, limit, "Name", one);
        yyjson_mut_obj_add_sint(doc, limit, "Soft", strtoll(soft, NULL, 10));
        yyjson_mut_obj_add_sint(doc, limit, "Hard", strtoll(hard != NULL ? hard : soft, NULL, 10));
    }
    free(copy);
}

static void add_limits(yyjson_mut_doc *doc, mut host, const struct podman_wanted *w)
{
    if (w->memory_bytes != 0)
        yyjson_mut_obj_add_uint(doc, host, "Memory", w->memory_bytes);
    if (w->cpus > 0)
        yyjson_mut_obj_add_sint(doc, host, "NanoCpus", (int64_t)(w->cpus * 1e9));
    if (w->pids > 0)
        yyjson_mut_obj_add_int(doc, host, "PidsLimit", w->pids);
    if (w->ulimits != NULL)
        add_ulimits(doc, host, w->ulimits);
}

static void add_port(yyjson_mut_doc *doc, mut root, mut host, const struct podman_wanted *w)
{
    char *text = mem_printf("%d", w->port);
    yyjson_mut_obj_add_obj(doc, yyjson_mut_obj_add_obj(doc, root, "ExposedPorts"), "5432/tcp");
    mut ports = yyjson_mut_obj_add_obj(doc, host, "PortBindings");
    mut binding = yyjson_mut_arr_add_obj(doc, yyjson_mut_obj_add_arr(doc, ports, "5432/tcp"));
    yyjson_mut_obj_add_str(doc, binding, "HostIp", w->address);
    yyjson_mut_obj_add_strcpy(doc, binding, "HostPort", text);
    free(text);
}

static void add_host(yyjson_mut_doc *doc, mut root, const struct podman_wanted *w)
{
    mut host = yyjson_mut_obj_add_obj(doc, root, "HostConfig");
    char *name = podman_name(w->instance), *volume = mem_printf("%s:" PODMAN_VOLUME, name);
    yyjson_mut_arr_add_strcpy(doc, yyjson_mut_obj_add_arr(doc, host, "Binds"), volume);
    yyjson_mut_obj_add_str(doc, host, "NetworkMode", w->network);
    yyjson_mut_obj_add_str(doc, yyjson_mut_obj_add_obj(doc, host, "RestartPolicy"), "Name", "unless-stopped");
    yyjson_mut_obj_add_bool(doc, host, "ReadonlyRootfs", true);
    yyjson_mut_obj_add_str(doc, yyjson_mut_obj_add_obj(doc, host, "Tmpfs"), "/tmp", "mode=1777");
    yyjson_mut_arr_add_str(doc, yyjson_mut_obj_add_arr(doc, host, "CapDrop"), "ALL");
    yyjson_mut_arr_add_str(doc, yyjson_mut_obj_add_arr(doc, host, "SecurityOpt"), "no-new-privileges");
    yyjson_mut_obj_add_int(doc, host, "ShmSize", SHM_BYTES);
    add_limits(doc, host, w);
    if (!is_host(w))
        add_port(doc, root, host, w);
    free(name);
    free(volume);
}

static char *print(yyjson_mut_doc *doc)
{
    char *made = yyjson_mut_write(doc, 0, NULL), *text = mem_strdup(made != NULL ? made : "{}");
    free(made);
    yyjson_mut_doc_free(doc);
    return text;
}

static char *container_body(const struct podman_wanted *w, const char *revision)
{
    char user[24];
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    snprintf(user, sizeof user, "%d:%d", SERVER_ID, SERVER_ID);
    mut root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "Image", w->image);
    yyjson_mut_obj_add_strcpy(doc, root, "User", user);
    add_arguments(doc, root, w);
    add_labels(doc, root, w, revision);
    yyjson_mut_obj_add_str(doc, root, "StopSignal", "SIGTERM");
    yyjson_mut_obj_add_int(doc, root, "StopTimeout", STOP_SECONDS);
    add_host(doc, root, w);
    return print(doc);
}

/* FNV-1a of 64 bits. http://www.isthe.com/chongo/tech/comp/fnv/ */
void podman_revision(const struct podman_wanted *w, char ret[17])
{
    char *body = container_body(w, NULL);
    uint64_t sum = 14695981039346656037ull;
    for (const char *p = body; *p != '\0'; p++)
        sum = (sum ^ (unsigned char)*p) * 1099511628211ull;
    snprintf(ret, 17, "%016" PRIx64, sum);
    free(body);
}

char *podman_container_body(const struct podman_wanted *w)
{
    char revision[17];
    podman_revision(w, revision);
    return container_body(w, revision);
}

char *podman_volume_body(const struct podman_wanted *w)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    mut root = yyjson_mut_obj(doc);
    char *name = podman_name(w->instance);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_strcpy(doc, root, "Name", name);
    add_labels(doc, root, w, NULL);
    free(name);
    return print(doc);
}

char *podman_filters(const char *directory)
{
    struct buf out = {0};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    mut root = yyjson_mut_obj(doc);
    char *label = mem_printf(PODMAN_LABEL_DIRECTORY "=%s", directory);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_arr_add_strcpy(doc, yyjson_mut_obj_add_arr(doc, root, "label"), label);
    char *json = print(doc);
    buf_add_text(&out, "filters=");
    for (const char *p = json; *p != '\0'; p++) {
        if (isalnum((unsigned char)*p))
            buf_addc(&out, *p);
        else
            buf_printf(&out, "%%%02X", (unsigned)(unsigned char)*p);
    }
    free(json);
    free(label);
    return buf_take(&out);
}

static bool ulimit_is_sound(const char *text, size_t length)
{
    char one[64];
    int64_t soft = 0, hard = 0;
    if (length == 0 || length >= sizeof one)
        return false;
    memcpy(one, text, length);
    one[length] = '\0';
    char *value = strchr(one, '=');
    if (value == NULL || value == one)
        return false;
    *value++ = '\0';
    for (const char *p = one; *p != '\0'; p++)
        if (!islower((unsigned char)*p))
            return false;
    char *second = strchr(value, ':');
    if (second != NULL)
        *second++ = '\0';
    if (!text_to_int64(value, &soft) || soft < -1)
        return false;
    hard = soft;
    return second == NULL || (text_to_int64(second, &hard) && hard >= -1 && (hard == -1 || soft <= hard));
}

int podman_ulimits_check(const char *ulimits, struct err *err)
{
    for (const char *p = ulimits; p != NULL && *p != '\0';) {
        size_t length = strcspn(p, ", ");
        if (!ulimit_is_sound(p, length))
            return err_set(
                err, ERRC_INVALID,
                "\"%.*s\" is no limit: write name=soft:hard, such as nofile=1024:4096, with commas "
                "between them",
                (int)length, p);
        p += length;
        p += strspn(p, ", ");
    }
    return 0;
}

int podman_image_check(const char *image, struct err *err)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@";
    if (image[0] != '\0' && image[0] != '/' && image[strspn(image, allowed)] == '\0' &&
        strstr(image, "..") == NULL)
        return 0;
    return err_set(err, ERRC_INVALID, "\"%.100s\" is no name of an image: write one such as shardherd:0.1.0",
                   image);
}

/* ---- the archive (ustar: POSIX.1-2017, pax, "ustar Interchange Format") ---- */

static void tar_header(struct buf *out, const char *name, char type, unsigned mode, size_t size,
                       int64_t seconds)
{
    char block[TAR_BLOCK] = {0};
    unsigned sum = 0;
    snprintf(block, 100, "%s", name);
    snprintf(block + 100, 8, "%07o", mode);
    snprintf(block + 108, 8, "%07o", (unsigned)SERVER_ID);
    snprintf(block + 116, 8, "%07o", (unsigned)SERVER_ID);
    snprintf(block + 124, 12, "%011llo", (unsigned long long)size & 077777777777ull);
    snprintf(block + 136, 12, "%011llo", (unsigned long long)(seconds > 0 ? seconds : 0) & 077777777777ull);
    memset(block + 148, ' ', 8);
    block[156] = type;
    memcpy(block + 257, "ustar\00000", 8);
    for (size_t i = 0; i < sizeof block; i++)
        sum += (unsigned char)block[i];
    snprintf(block + 148, 8, "%06o", sum & 0777777u);
    (void)buf_add(out, block, sizeof block);
}

static void tar_pad(struct buf *out)
{
    static const char zeros[TAR_BLOCK];
    if (out->length % TAR_BLOCK != 0)
        (void)buf_add(out, zeros, TAR_BLOCK - out->length % TAR_BLOCK);
}

void podman_archive(struct buf *out, const char *folder, const struct podman_file *files, size_t count,
                    int64_t wall_us)
{
    static const char end[2 * TAR_BLOCK];
    char *name = mem_printf("%s/", folder);
    tar_header(out, name, '5', 0700, 0, wall_us / 1000000);
    free(name);
    for (size_t i = 0; i < count; i++) {
        name = mem_printf("%s/%s", folder, files[i].name);
        tar_header(out, name, '0', 0600, strlen(files[i].text), wall_us / 1000000);
        (void)buf_add_text(out, files[i].text);
        tar_pad(out);
        free(name);
    }
    (void)buf_add(out, end, sizeof end);
}

void podman_settings(struct buf *out, uint64_t memory_bytes, char *const *settings)
{
    if (memory_bytes != 0)
        kube_settings(out, memory_bytes, 0, NULL);
    for (; settings != NULL && *settings != NULL; settings++)
        (void)buf_printf(out, "%s\n", *settings);
}

/* ---- answers ---- */

static const char *text_of(yyjson_val *object, const char *key)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, key));
    return text != NULL ? text : "";
}

/* "1.41" */
static bool minor_of(const char *text, unsigned *ret)
{
    uint64_t minor = 0;
    if (!text_starts_with(text, "1.") || !text_to_uint64(text + 2, &minor) || minor > 1000)
        return false;
    *ret = (unsigned)minor;
    return true;
}

int podman_engine_parse(yyjson_val *root, struct podman_engine *ret, struct err *err)
{
    yyjson_val *first = yyjson_arr_get_first(yyjson_obj_get(root, "Components"));
    const char *name = text_of(first, "Name"), *version = text_of(root, "Version");
    unsigned highest = 0, lowest = 0;
    if (version[0] == '\0' || !minor_of(text_of(root, "ApiVersion"), &highest))
        return err_set(err, ERRC_PROTOCOL, "what answers there is neither podman nor Docker");
    if (!minor_of(text_of(root, "MinAPIVersion"), &lowest))
        lowest = 0;
    ret->minor = highest < API_MINOR ? highest : lowest > API_MINOR ? lowest : API_MINOR;
    if (name[0] == '\0' || strcmp(name, "Engine") == 0)
        name = "Docker Engine";
    snprintf(ret->name, sizeof ret->name, "%.60s %.30s", name, version);
    return 0;
}

static void labels_read(yyjson_val *labels, struct podman_container *ret)
{
    ret->directory = text_of(labels, PODMAN_LABEL_DIRECTORY);
    ret->instance = text_of(labels, PODMAN_LABEL_INSTANCE);
    ret->revision = text_of(labels, PODMAN_LABEL_REVISION);
}

int podman_container_parse(yyjson_val *root, struct podman_container *ret, struct err *err)
{
    yyjson_val *state = yyjson_obj_get(root, "State");
    *ret = (struct podman_container){0};
    if (!yyjson_is_obj(state))
        return err_set(err, ERRC_PROTOCOL, "the engine's answer about the container has no state");
    labels_read(yyjson_obj_get(yyjson_obj_get(root, "Config"), "Labels"), ret);
    ret->status = text_of(state, "Status");
    ret->running = yyjson_get_bool(yyjson_obj_get(state, "Running"));
    ret->paused = yyjson_get_bool(yyjson_obj_get(state, "Paused"));
    ret->exit_code = (int)yyjson_get_sint(yyjson_obj_get(state, "ExitCode"));
    ret->restarts = yyjson_get_sint(yyjson_obj_get(root, "RestartCount"));
    ret->error = text_of(state, "Error");
    return 0;
}

bool podman_listed_parse(yyjson_val *one, struct podman_container *ret)
{
    *ret = (struct podman_container){.error = ""};
    labels_read(yyjson_obj_get(one, "Labels"), ret);
    ret->status = text_of(one, "State");
    ret->running = strcmp(ret->status, "running") == 0 || strcmp(ret->status, "restarting") == 0;
    ret->paused = strcmp(ret->status, "paused") == 0;
    return ret->instance[0] != '\0';
}

const char *podman_volume_directory(yyjson_val *root)
{
    return text_of(yyjson_obj_get(root, "Labels"), PODMAN_LABEL_DIRECTORY);
}

const char *podman_volume_path(yyjson_val *root)
{
    return text_of(root, "Mountpoint");
}

/* One line of what may be foreign text. */
static void clean(const char *text, size_t length, char *ret, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < length && used + 1 < size; i++)
        ret[used++] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? ' ' : text[i];
    while (used > 0 && ret[used - 1] == ' ')
        used--;
    ret[used] = '\0';
}

int podman_error(struct err *err, const char *what, int status, const char *body, size_t length)
{
    yyjson_doc *doc = yyjson_read(body, length, 0);
    const char *said = text_of(yyjson_doc_get_root(doc), "message");
    size_t said_length = strlen(said);
    char message[360];
    if (said[0] == '\0' && doc == NULL) { /* bare text */
        said = body;
        said_length = length;
    }
    clean(said, said_length, message, sizeof message);
    if (message[0] == '\0')
        snprintf(message, sizeof message, "it gives no reason");
    yyjson_doc_free(doc);
    enum err_code code = status == 400   ? ERRC_INVALID
                         : status == 404 ? ERRC_NOT_FOUND
                         : status == 409 ? ERRC_CONFLICT
                         : status == 500 ? ERRC_IO
                                         : ERRC_UNAVAILABLE;
    return err_set(err, code, "%s: %s (status %d)", what, message, status);
}

/* ---- logs ---- */

/* Text of the frames: kind, three zeros, the length as four bytes, text. Bare text stays as it is. */
static char *log_text(const char *bytes, size_t length)
{
    struct buf out = {0};
    const unsigned char *p = (const unsigned char *)bytes;
    while (length >= 8 && p[0] <= 2 && p[1] == 0 && p[2] == 0 && p[3] == 0) {
        size_t n = (size_t)p[4] << 24 | (size_t)p[5] << 16 | (size_t)p[6] << 8 | p[7];
        n = n < length - 8 ? n : length - 8;
        (void)buf_add(&out, p + 8, n);
        p += 8 + n;
        length -= 8 + n;
    }
    (void)buf_add(&out, p, length);
    return out.data != NULL ? buf_take(&out) : mem_strdup("");
}

static bool tells(const char *line, size_t length)
{
    static const char *const marks[] = {"FATAL:", "PANIC:", "level=error", "\"error\""};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (memmem(line, length, marks[i], strlen(marks[i])) != NULL)
            return true;
    return false;
}

void podman_log_reason(const char *bytes, size_t length, char *ret, size_t size)
{
    char *text = log_text(bytes, length);
    bool found = false;
    ret[0] = '\0';
    for (const char *line = text; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        bool telling = tells(line, n);
        if (n > 0 && (telling || !found))
            clean(line, n, ret, size);
        found = found || telling;
        line += n + (line[n] == '\n');
    }
    free(text);
}
