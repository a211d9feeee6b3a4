#include "discovery/kubernetes_object.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"

#define PREFIX       "shardherd.io/"
#define CONTAINERS   64
#define VARIABLES    1000
#define DEFAULT_PORT 5432

/* ---- reading ---- */

static yyjson_val *get2(yyjson_val *object, const char *a, const char *b)
{
    return yyjson_obj_get(yyjson_obj_get(object, a), b);
}

/* A text of bearable length, or NULL: also for "". The doc's memory is only read, and copied by pack(). */
static char *text_of(yyjson_val *value)
{
    union {
        const char *read;
        char *write;
    } text = {.read = yyjson_get_str(value)};
    size_t length = yyjson_get_len(value);
    if (text.read == NULL || length == 0 || length > CLUSTER_TEXT_MAX || strlen(text.read) != length)
        return NULL;
    return text.write;
}

static char *member(yyjson_val *object, const char *name)
{
    return text_of(yyjson_obj_get(object, name));
}

static bool is(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

static int port_of(yyjson_val *value)
{
    int64_t port = 0;
    if (yyjson_is_str(value))
        (void)text_to_int64(yyjson_get_str(value), &port);
    else if (yyjson_is_int(value))
        port = yyjson_get_sint(value);
    return port > 0 && port <= 65535 ? (int)port : 0;
}

static uint64_t count_of(yyjson_val *value)
{
    return yyjson_is_uint(value) ? yyjson_get_uint(value) : 0;
}

/* ---- keeping ---- */

#define TEXTS 16
static void texts_of(struct cluster_object *o, char **ret[TEXTS])
{
    char **all[TEXTS] = {&o->name,    &o->name_space, &o->database, &o->shard,  &o->role, &o->cluster,
                         &o->address, &o->service,    &o->owner,    &o->dbname, &o->user, &o->sslmode,
                         &o->secret,  &o->user_key,   &o->pass_key, NULL};
    memcpy((void *)ret, (const void *)all, sizeof all);
}

static size_t length_of(const char *text)
{
    return text != NULL ? strlen(text) + 1 : 0;
}

static void move_text(char **field, char **place)
{
    size_t length = length_of(*field);
    if (length == 0)
        return;
    memcpy(*place, *field, length);
    *field = *place;
    *place += length;
}

/* A copy in one allocation of what points into the JSON. */
static struct cluster_object *pack(struct cluster_object *from)
{
    char **texts[TEXTS];
    size_t size = sizeof *from + from->endpoint_count * sizeof *from->endpoints;
    if (from->name == NULL)
        return NULL;
    texts_of(from, texts);
    for (int i = 0; texts[i] != NULL; i++)
        size += length_of(*texts[i]);
    for (size_t i = 0; i < from->endpoint_count; i++)
        size += length_of(from->endpoints[i].address) + length_of(from->endpoints[i].hostname) +
                length_of(from->endpoints[i].pod);
    struct cluster_object *o = mem_alloc(size);
    *o = *from;
    o->endpoints = (struct cluster_endpoint *)(void *)(o + 1);
    char *place = (char *)(o->endpoints + o->endpoint_count);
    texts_of(o, texts);
    for (int i = 0; texts[i] != NULL; i++)
        move_text(texts[i], &place);
    for (size_t i = 0; i < o->endpoint_count; i++) {
        o->endpoints[i] = from->endpoints[i];
        move_text(&o->endpoints[i].address, &place);
        move_text(&o->endpoints[i].hostname, &place);
        move_text(&o->endpoints[i].pod, &place);
    }
    return o;
}

/* ---- metadata ---- */

static void read_said(struct cluster_object *o, yyjson_val *annotations)
{
    if (!o->managed) {
        o->database = member(annotations, PREFIX "database");
        o->shard = member(annotations, PREFIX "shard");
    }
    o->port = port_of(yyjson_obj_get(annotations, PREFIX "port"));
    o->dbname = member(annotations, PREFIX "dbname");
    o->user = member(annotations, PREFIX "user");
    o->secret = member(annotations, PREFIX "secret");
    o->user_key = member(annotations, PREFIX "secret-user-key");
    o->pass_key = member(annotations, PREFIX "secret-password-key");
    o->sslmode = member(annotations, PREFIX "sslmode");
}

static void read_owner(struct cluster_object *o, yyjson_val *metadata)
{
    size_t i, max;
    yyjson_val *reference;
    yyjson_arr_foreach(yyjson_obj_get(metadata, "ownerReferences"), i, max, reference)
    {
        if (yyjson_get_bool(yyjson_obj_get(reference, "controller")))
            o->owner = member(reference, "name");
    }
}

static void read_metadata(struct cluster_object *o, yyjson_val *json)
{
    yyjson_val *metadata = yyjson_obj_get(json, "metadata"), *labels = yyjson_obj_get(metadata, "labels");
    const char *discover = yyjson_get_str(yyjson_obj_get(labels, PREFIX "discover"));
    o->name = member(metadata, "name");
    o->name_space = member(metadata, "namespace");
    o->terminating = yyjson_is_str(yyjson_obj_get(metadata, "deletionTimestamp"));
    o->discover = discover != NULL && strcmp(discover, "false") != 0;
    o->refused = discover != NULL && !o->discover;
    o->database = member(labels, PREFIX "database");
    o->shard = member(labels, PREFIX "shard");
    o->managed = is(member(labels, "app.kubernetes.io/managed-by"), "shardherd") && o->database != NULL &&
                 o->shard != NULL;
    o->cluster = member(labels, "cnpg.io/cluster");
    o->role = member(labels, PREFIX "role");
    if (o->role == NULL)
        o->role = member(labels, "cnpg.io/instanceRole");
    if (o->role == NULL)
        o->role = member(labels, "role"); /* CloudNativePG before 1.21 */
    read_said(o, yyjson_obj_get(metadata, "annotations"));
    read_owner(o, metadata);
}

/* ---- pods ---- */

bool cluster_image_is_postgres(const char *image)
{
    static const char *const names[] = {"postgres", "postgresql", "postgis",        "timescaledb",
                                        "pgvector", "spilo",      "cloudnative-pg", "alloydbomni"};
    const char *slash = strrchr(image, '/');
    const char *name = slash != NULL ? slash + 1 : image;
    size_t length = strcspn(name, ":@");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t n = strlen(names[i]);
        /* "postgres", "postgres-ha", "spilo-15"; not "postgres_exporter" or "postgres-operator" */
        if (length >= n && strncmp(name, names[i], n) == 0 &&
            (length == n || (name[n] == '-' && (strncmp(name + n, "-ha", 3) == 0 ||
                                                (name[n + 1] >= '0' && name[n + 1] <= '9')))))
            return true;
    }
    return false;
}

static int postgres_port(yyjson_val *container)
{
    size_t i, max;
    yyjson_val *port;
    yyjson_arr_foreach(yyjson_obj_get(container, "ports"), i, max, port)
    {
        if (port_of(yyjson_obj_get(port, "containerPort")) == DEFAULT_PORT)
            return DEFAULT_PORT;
    }
    return 0;
}

/* The official image's and Bitnami's variables; of a password only where it is. */
static void read_variable(struct cluster_object *o, yyjson_val *variable)
{
    const char *name = member(variable, "name");
    char *value = member(variable, "value");
    yyjson_val *secret = get2(variable, "valueFrom", "secretKeyRef");
    if (name == NULL)
        return;
    if (o->user == NULL && (is(name, "POSTGRES_USER") || is(name, "POSTGRESQL_USERNAME")))
        o->user = value;
    else if (o->dbname == NULL && (is(name, "POSTGRES_DB") || is(name, "POSTGRESQL_DATABASE")))
        o->dbname = value;
    else if (o->secret == NULL && (is(name, "POSTGRES_PASSWORD") || is(name, "POSTGRESQL_PASSWORD"))) {
        o->secret = member(secret, "name");
        o->pass_key = member(secret, "key");
    }
}

static void read_container(struct cluster_object *o, yyjson_val *container)
{
    const char *image = yyjson_get_str(yyjson_obj_get(container, "image"));
    size_t i, max;
    yyjson_val *variable;
    if (o->postgres || image == NULL || !cluster_image_is_postgres(image) || postgres_port(container) == 0)
        return;
    o->postgres = true;
    yyjson_arr_foreach(yyjson_obj_get(container, "env"), i, max, variable)
    {
        if (i < VARIABLES)
            read_variable(o, variable);
    }
}

static void read_pod_status(struct cluster_object *o, yyjson_val *status)
{
    size_t i, max;
    yyjson_val *item;
    o->address = member(status, "podIP");
    yyjson_arr_foreach(yyjson_obj_get(status, "conditions"), i, max, item)
    {
        if (is(member(item, "type"), "Ready"))
            o->ready = is(member(item, "status"), "True");
    }
    yyjson_arr_foreach(yyjson_obj_get(status, "containerStatuses"), i, max, item)
    {
        o->restarts += count_of(yyjson_obj_get(item, "restartCount"));
    }
    /* one that has ended keeps its address for a while, and somebody else may get it */
    const char *phase = member(status, "phase");
    if (is(phase, "Succeeded") || is(phase, "Failed"))
        o->terminating = true;
}

struct cluster_object *cluster_pod(yyjson_val *json)
{
    struct cluster_object o = {.kind = CLUSTER_POD};
    size_t i, max;
    yyjson_val *container;
    read_metadata(&o, json);
    yyjson_arr_foreach(get2(json, "spec", "containers"), i, max, container)
    {
        if (i < CONTAINERS)
            read_container(&o, container);
    }
    read_pod_status(&o, yyjson_obj_get(json, "status"));
    return pack(&o);
}

/* ---- stateful sets and services ---- */

struct cluster_object *cluster_stateful_set(yyjson_val *json)
{
    struct cluster_object o = {.kind = CLUSTER_STATEFUL_SET};
    yyjson_val *spec = yyjson_obj_get(json, "spec"), *replicas = yyjson_obj_get(spec, "replicas");
    size_t i, max;
    yyjson_val *container;
    read_metadata(&o, json);
    o.service = member(spec, "serviceName");
    uint64_t count = replicas != NULL ? count_of(replicas) : 1;
    o.replicas = count < CLUSTER_ENDPOINTS_MAX ? (int)count : CLUSTER_ENDPOINTS_MAX;
    uint64_t first = count_of(get2(spec, "ordinals", "start"));
    o.ordinal = first < 1000000 ? (unsigned)first : 0;
    yyjson_arr_foreach(get2(yyjson_obj_get(spec, "template"), "spec", "containers"), i, max, container)
    {
        if (i < CONTAINERS)
            read_container(&o, container);
    }
    return pack(&o);
}

static int service_port(yyjson_val *ports)
{
    size_t i, max;
    yyjson_val *port;
    int only = 0;
    yyjson_arr_foreach(ports, i, max, port)
    {
        int number = port_of(yyjson_obj_get(port, "port"));
        if (number == DEFAULT_PORT || is(member(port, "name"), "postgresql") ||
            is(member(port, "name"), "postgres"))
            return number;
        only = max == 1 ? number : 0;
    }
    return only;
}

struct cluster_object *cluster_service(yyjson_val *json)
{
    struct cluster_object o = {.kind = CLUSTER_SERVICE};
    yyjson_val *spec = yyjson_obj_get(json, "spec");
    read_metadata(&o, json);
    o.address = member(spec, "clusterIP");
    o.headless = is(o.address, "None");
    if (o.headless)
        o.address = NULL;
    if (o.port == 0)
        o.port = service_port(yyjson_obj_get(spec, "ports"));
    return pack(&o);
}

/* ---- CloudNativePG ---- */

struct cluster_object *cluster_cnpg(yyjson_val *json)
{
    struct cluster_object o = {.kind = CLUSTER_CNPG};
    yyjson_val *spec = yyjson_obj_get(json, "spec"), *status = yyjson_obj_get(json, "status");
    yyjson_val *initdb = get2(spec, "bootstrap", "initdb");
    read_metadata(&o, json);
    o.service = member(status, "writeService");
    o.superuser = yyjson_get_bool(yyjson_obj_get(spec, "enableSuperuserAccess"));
    if (o.dbname == NULL)
        o.dbname = member(initdb, "database");
    if (o.secret == NULL && o.superuser)
        o.secret = member(yyjson_obj_get(spec, "superuserSecret"), "name");
    if (o.secret == NULL && !o.superuser)
        o.secret = member(yyjson_obj_get(initdb, "secret"), "name");
    return pack(&o);
}

/* ---- endpoint slices ---- */

static bool endpoint_of(yyjson_val *json, struct cluster_endpoint *ret)
{
    yyjson_val *ready = get2(json, "conditions", "ready"), *target = yyjson_obj_get(json, "targetRef");
    *ret = (struct cluster_endpoint){
        .address = text_of(yyjson_arr_get_first(yyjson_obj_get(json, "addresses"))),
        .hostname = member(json, "hostname"),
        .pod = is(member(target, "kind"), "Pod") ? member(target, "name") : NULL,
        .ready = !yyjson_is_bool(ready) || yyjson_get_bool(ready), /* not known means ready */
    };
    return ret->address != NULL;
}

struct cluster_object *cluster_slice(yyjson_val *json)
{
    struct cluster_object o = {.kind = CLUSTER_SLICE};
    yyjson_val *endpoints = yyjson_obj_get(json, "endpoints"), *endpoint;
    size_t i, max, room = yyjson_arr_size(endpoints);
    room = room < CLUSTER_ENDPOINTS_MAX ? room : CLUSTER_ENDPOINTS_MAX;
    o.endpoints = mem_array(room + 1, sizeof *o.endpoints);
    read_metadata(&o, json);
    o.service =
        member(yyjson_obj_get(yyjson_obj_get(json, "metadata"), "labels"), "kubernetes.io/service-name");
    o.port = port_of(yyjson_obj_get(yyjson_arr_get_first(yyjson_obj_get(json, "ports")), "port"));
    yyjson_arr_foreach(endpoints, i, max, endpoint)
    {
        if (o.endpoint_count < room && endpoint_of(endpoint, &o.endpoints[o.endpoint_count]))
            o.endpoint_count++;
    }
    void *found = o.endpoints;
    struct cluster_object *packed = pack(&o);
    free(found);
    return packed;
}
