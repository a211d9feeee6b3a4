#include "runtime/kube_objects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "runtime/kube_pod.h"
#include "runtime/kube_version.h"

#define DEFAULT_MEMORY (1ull << 30)

/* What every object of the shard needs at hand. */
struct render {
    const struct kube_shard *shard;
    yyjson_mut_doc *doc;
    char *name;
    kube_object_cb cb;
    void *data;
    struct err *err;
};

typedef yyjson_mut_val *mut;

/* ---- building ---- */

static mut add_object(struct render *r, mut to, const char *name)
{
    mut o = yyjson_mut_obj(r->doc);
    (void)yyjson_mut_obj_add(to, yyjson_mut_strcpy(r->doc, name), o);
    return o;
}

static mut add_array(struct render *r, mut to, const char *name)
{
    mut a = yyjson_mut_arr(r->doc);
    (void)yyjson_mut_obj_add(to, yyjson_mut_strcpy(r->doc, name), a);
    return a;
}

static mut append_object(struct render *r, mut array)
{
    return yyjson_mut_arr_add_obj(r->doc, array);
}

static void add_text(struct render *r, mut to, const char *name, const char *text)
{
    (void)yyjson_mut_obj_add(to, yyjson_mut_strcpy(r->doc, name), yyjson_mut_strcpy(r->doc, text));
}

static void add_int(struct render *r, mut to, const char *name, int64_t number)
{
    (void)yyjson_mut_obj_add(to, yyjson_mut_strcpy(r->doc, name), yyjson_mut_sint(r->doc, number));
}

static void add_bool(struct render *r, mut to, const char *name, bool value)
{
    (void)yyjson_mut_obj_add(to, yyjson_mut_strcpy(r->doc, name), yyjson_mut_bool(r->doc, value));
}

static void append_text(struct render *r, mut array, const char *text)
{
    (void)yyjson_mut_arr_append(array, yyjson_mut_strcpy(r->doc, text));
}

/* The user's own words, as they are; nothing if there are none. */
static void add_copy(struct render *r, mut to, const char *name, yyjson_val *value)
{
    if (value != NULL && !yyjson_is_null(value))
        (void)yyjson_mut_obj_add(to, yyjson_mut_strcpy(r->doc, name), yyjson_val_mut_copy(r->doc, value));
}

/* ---- reading the specification ---- */

static yyjson_val *field(const struct render *r, const char *section, const char *name)
{
    yyjson_val *from = section != NULL ? yyjson_obj_get(r->shard->spec, section) : r->shard->spec;
    return yyjson_obj_get(from, name);
}

static const char *text_or(const struct render *r, const char *section, const char *name,
                           const char *otherwise)
{
    const char *text = yyjson_get_str(field(r, section, name));
    return text != NULL ? text : otherwise;
}

static int64_t int_or(const struct render *r, const char *section, const char *name, int64_t otherwise)
{
    yyjson_val *value = field(r, section, name);
    return yyjson_is_int(value) ? yyjson_get_sint(value) : otherwise;
}

bool kube_quantity(const char *text, uint64_t *ret_bytes)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {{"", 1},
                 {"k", 1e3},
                 {"M", 1e6},
                 {"G", 1e9},
                 {"T", 1e12},
                 {"P", 1e15},
                 {"Ki", 1024.0},
                 {"Mi", 1048576.0},
                 {"Gi", 1073741824.0},
                 {"Ti", 1099511627776.0},
                 {"Pi", 1125899906842624.0}};
    char *rest;
    if (text[0] < '0' || text[0] > '9')
        return false;
    double number = strtod(text, &rest);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(rest, units[i].suffix) == 0 && number * units[i].factor < 9e18) {
            *ret_bytes = (uint64_t)(number * units[i].factor);
            return true;
        }
    }
    return false;
}

/* A quantity of the spec, number or text. */
static int quantity(const struct render *r, yyjson_val *value, const char *name, uint64_t *ret)
{
    if (value == NULL)
        return 0;
    if (yyjson_is_uint(value)) {
        *ret = yyjson_get_uint(value);
        return 0;
    }
    const char *text = yyjson_get_str(value);
    if (text != NULL && kube_quantity(text, ret))
        return 0;
    return err_set(r->err, ERRC_INVALID, "spec.%s: \"%s\" is no quantity, such as 10Gi", name,
                   text != NULL ? text : "");
}

static int memory_of(const struct render *r, uint64_t *ret)
{
    *ret = DEFAULT_MEMORY;
    yyjson_val *limits = field(r, "resources", "limits"), *requests = field(r, "resources", "requests");
    yyjson_val *memory = yyjson_obj_get(limits, "memory");
    if (memory != NULL)
        return quantity(r, memory, "resources.limits.memory", ret);
    return quantity(r, yyjson_obj_get(requests, "memory"), "resources.requests.memory", ret);
}

static bool has_tls(const struct render *r)
{
    return strcmp(text_or(r, "tls", "mode", "on"), "off") != 0;
}

static int64_t instances_of(const struct render *r)
{
    return r->shard->instances > 0 ? r->shard->instances : int_or(r, NULL, "instances", 1);
}

/* Several instances: their agents wait for orders, and the manager says by labels who is the primary. */
static bool has_members(const struct render *r)
{
    return r->shard->members || instances_of(r) > 1;
}

/* ---- what all objects share ---- */

char *kube_shard_name(const struct kube_shard *shard)
{
    return mem_printf("%s-%s", shard->database, shard->shard);
}

static void labels(struct render *r, mut to)
{
    yyjson_val *key, *value;
    size_t at, n;
    yyjson_obj_foreach(field(r, NULL, "labels"), at, n, key, value)
    {
        if (yyjson_is_str(value))
            add_text(r, to, yyjson_get_str(key), yyjson_get_str(value));
    }
    add_text(r, to, "app.kubernetes.io/name", "postgresql");
    add_text(r, to, "app.kubernetes.io/instance", r->name);
    add_text(r, to, "app.kubernetes.io/managed-by", "shardherd");
    add_text(r, to, "shardherd.io/database", r->shard->database);
    add_text(r, to, "shardherd.io/shard", r->shard->shard);
}

static void selector(struct render *r, mut to)
{
    add_text(r, to, "shardherd.io/database", r->shard->database);
    add_text(r, to, "shardherd.io/shard", r->shard->shard);
}

static void owner(struct render *r, mut metadata)
{
    if (r->shard->owner_uid == NULL)
        return;
    mut reference = append_object(r, add_array(r, metadata, "ownerReferences"));
    add_text(r, reference, "apiVersion", "shardherd.io/v1alpha1");
    add_text(r, reference, "kind", "ShardedDatabase");
    add_text(r, reference, "name", r->shard->database);
    add_text(r, reference, "uid", r->shard->owner_uid);
    add_bool(r, reference, "controller", true);
    add_bool(r, reference, "blockOwnerDeletion", true);
}

/* The head of an object named NAME or NAME-suffix. */
static mut begin(struct render *r, const char *version, const char *kind, const char *suffix)
{
    mut root = yyjson_mut_obj(r->doc);
    char *name = mem_printf("%s%s", r->name, suffix);
    add_text(r, root, "apiVersion", version);
    add_text(r, root, "kind", kind);
    mut metadata = add_object(r, root, "metadata");
    add_text(r, metadata, "name", name);
    add_text(r, metadata, "namespace", r->shard->name_space);
    labels(r, add_object(r, metadata, "labels"));
    owner(r, metadata);
    free(name);
    return root;
}

static int finish(struct render *r, mut root, const char *group, const char *plural, const char *suffix)
{
    char *collection = mem_printf("%s/namespaces/%s/%s", group, r->shard->name_space, plural);
    char *name = mem_printf("%s%s", r->name, suffix);
    const struct kube_object object = {collection, name, r->doc, root};
    int rc = r->cb(&object, r->data, r->err);
    free(collection);
    free(name);
    return rc;
}

/* ---- one function for each kind ---- */

static int service_account(struct render *r)
{
    mut root = begin(r, "v1", "ServiceAccount", "");
    add_bool(r, root, "automountServiceAccountToken", false);
    return finish(r, root, "/api/v1", "serviceaccounts", "");
}

/* The agent reads its own pod and nothing else. */
static int role(struct render *r)
{
    mut root = begin(r, "rbac.authorization.k8s.io/v1", "Role", "");
    mut rule = append_object(r, add_array(r, root, "rules"));
    append_text(r, add_array(r, rule, "apiGroups"), "");
    append_text(r, add_array(r, rule, "resources"), "pods");
    append_text(r, add_array(r, rule, "verbs"), "get");
    return finish(r, root, "/apis/rbac.authorization.k8s.io/v1", "roles", "");
}

static int role_binding(struct render *r)
{
    mut root = begin(r, "rbac.authorization.k8s.io/v1", "RoleBinding", "");
    mut reference = add_object(r, root, "roleRef");
    add_text(r, reference, "apiGroup", "rbac.authorization.k8s.io");
    add_text(r, reference, "kind", "Role");
    add_text(r, reference, "name", r->name);
    mut subject = append_object(r, add_array(r, root, "subjects"));
    add_text(r, subject, "kind", "ServiceAccount");
    add_text(r, subject, "name", r->name);
    add_text(r, subject, "namespace", r->shard->name_space);
    return finish(r, root, "/apis/rbac.authorization.k8s.io/v1", "rolebindings", "");
}

static int wal_bytes(const struct render *r, uint64_t *ret)
{
    yyjson_val *size = yyjson_obj_get(field(r, "storage", "wal"), "size");
    *ret = 10ull << 30;
    if (size != NULL)
        return quantity(r, size, "storage.wal.size", ret);
    return quantity(r, field(r, "storage", "size"), "storage.size", ret);
}

static int settings_of(const struct render *r, struct buf *out)
{
    uint64_t memory, wal;
    int rc = memory_of(r, &memory);
    if (rc == 0)
        rc = wal_bytes(r, &wal);
    if (rc == 0)
        kube_settings(out, memory, wal, field(r, "postgresql", "parameters"));
    return rc;
}

static int config_map(struct render *r, const char *settings)
{
    mut root = begin(r, "v1", "ConfigMap", "");
    add_text(r, add_object(r, root, "data"), "settings.conf", settings);
    return finish(r, root, "/api/v1", "configmaps", "");
}

static void service_port(struct render *r, mut spec)
{
    mut port = append_object(r, add_array(r, spec, "ports"));
    add_text(r, port, "name", "postgresql");
    add_int(r, port, "port", 5432);
    add_text(r, port, "targetPort", "postgresql");
    add_text(r, port, "protocol", "TCP");
}

/* Pods of the headless service have names before they are ready: the agents find each other by them. */
static int headless_service(struct render *r)
{
    mut root = begin(r, "v1", "Service", "-pods");
    mut spec = add_object(r, root, "spec");
    add_text(r, spec, "clusterIP", "None");
    add_bool(r, spec, "publishNotReadyAddresses", true);
    selector(r, add_object(r, spec, "selector"));
    service_port(r, spec);
    return finish(r, root, "/api/v1", "services", "-pods");
}

static int service(struct render *r, const char *suffix, const char *pod_role)
{
    mut root = begin(r, "v1", "Service", suffix);
    yyjson_val *annotations = field(r, "service", "annotations");
    if (annotations != NULL)
        add_copy(r, yyjson_mut_obj_get(root, "metadata"), "annotations", annotations);
    mut spec = add_object(r, root, "spec");
    add_text(r, spec, "type", text_or(r, "service", "type", "ClusterIP"));
    mut pods = add_object(r, spec, "selector");
    selector(r, pods);
    if (pod_role != NULL)
        add_text(r, pods, KUBE_ROLE_LABEL, pod_role);
    service_port(r, spec);
    return finish(r, root, "/api/v1", "services", suffix);
}

static mut policy_peer(struct render *r, mut rule)
{
    return add_object(r, append_object(r, add_array(r, rule, "from")), "podSelector");
}

static void policy_port(struct render *r, mut rule, const char *name)
{
    mut ports = yyjson_mut_obj_get(rule, "ports");
    mut port = append_object(r, ports != NULL ? ports : add_array(r, rule, "ports"));
    add_text(r, port, "protocol", "TCP");
    add_text(r, port, "port", name);
}

/* The manager runs in the same namespace: a label alone, which anybody may give to a pod of another one,
 * opens nothing. */
static int network_policy(struct render *r)
{
    mut root = begin(r, "networking.k8s.io/v1", "NetworkPolicy", "");
    mut spec = add_object(r, root, "spec");
    selector(r, add_object(r, add_object(r, spec, "podSelector"), "matchLabels"));
    append_text(r, add_array(r, spec, "policyTypes"), "Ingress");
    mut rules = add_array(r, spec, "ingress");
    mut clients = append_object(r, rules), shards = append_object(r, rules),
        manager = append_object(r, rules);
    yyjson_val *allowed = field(r, "network", "allowedLabels");
    mut peer = policy_peer(r, clients);
    if (allowed != NULL)
        add_copy(r, peer, "matchLabels", allowed);
    policy_port(r, clients, "postgresql");
    add_text(r, add_object(r, policy_peer(r, shards), "matchLabels"), "shardherd.io/database",
             r->shard->database);
    policy_port(r, shards, "postgresql");
    policy_port(r, shards, "agent");
    mut from = add_object(r, policy_peer(r, manager), "matchLabels");
    add_text(r, from, "app.kubernetes.io/name", "shardherd");
    add_text(r, from, "app.kubernetes.io/component", "manager");
    policy_port(r, manager, "postgresql");
    policy_port(r, manager, "agent");
    return finish(r, root, "/apis/networking.k8s.io/v1", "networkpolicies", "");
}

/* With one instance a budget of 0 would block every drain of a node; the instance moves then. */
static int disruption_budget(struct render *r)
{
    mut root = begin(r, "policy/v1", "PodDisruptionBudget", "");
    mut spec = add_object(r, root, "spec");
    add_int(r, spec, "maxUnavailable", 1);
    selector(r, add_object(r, add_object(r, spec, "selector"), "matchLabels"));
    return finish(r, root, "/apis/policy/v1", "poddisruptionbudgets", "");
}

/* ---- the StatefulSet ---- */

static void probe(struct render *r, mut container, const char *kind, const char *path, int64_t period,
                  int64_t failures)
{
    mut p = add_object(r, container, kind);
    mut get = add_object(r, p, "httpGet");
    add_text(r, get, "path", path);
    add_text(r, get, "port", "agent");
    if (has_members(r))
        add_text(r, get, "scheme", "HTTPS");
    add_int(r, p, "periodSeconds", period);
    add_int(r, p, "timeoutSeconds", 5);
    add_int(r, p, "failureThreshold", failures);
}

static void probes(struct render *r, mut container)
{
    int64_t startup = int_or(r, "probes", "startupSeconds", 3600);
    int64_t liveness = int_or(r, "probes", "livenessSeconds", 30);
    int64_t readiness = int_or(r, "probes", "readinessSeconds", 2);
    /* a member has started when its agent answers: its server waits for orders, and may be cloned for long */
    probe(r, container, "startupProbe", has_members(r) ? "/livez" : "/readyz", 1, startup);
    probe(r, container, "livenessProbe", "/livez", 5, (liveness + 4) / 5);
    probe(r, container, "readinessProbe", "/readyz", readiness, 2);
}

static void mount(struct render *r, mut mounts, const char *name, const char *path, bool read_only)
{
    mut m = append_object(r, mounts);
    add_text(r, m, "name", name);
    add_text(r, m, "mountPath", path);
    if (read_only)
        add_bool(r, m, "readOnly", true);
}

static void member_arguments(struct render *r, mut args)
{
    append_text(r, args, "--member=$(POD_NAME)");
    append_text(r, args, "--token-file=/etc/shardherd/credentials/" KUBE_TOKEN_KEY);
    append_text(r, args, "--http-address=0.0.0.0");
    append_text(r, args, "--http-tls=/etc/shardherd/agent");
}

static void member_environment(struct render *r, mut container)
{
    mut name = append_object(r, add_array(r, container, "env"));
    add_text(r, name, "name", "POD_NAME");
    add_text(r, add_object(r, add_object(r, name, "valueFrom"), "fieldRef"), "fieldPath", "metadata.name");
}

static void arguments(struct render *r, mut container)
{
    mut command = add_array(r, container, "command"), args = add_array(r, container, "args");
    append_text(r, command, "shardherd");
    append_text(r, args, "agent");
    append_text(r, args, "--data=" KUBE_DATA);
    append_text(r, args, "--run=/var/run/postgresql");
    append_text(r, args, "--settings=/etc/shardherd/settings/settings.conf");
    append_text(r, args, "--password-file=/etc/shardherd/credentials/password");
    if (field(r, "storage", "wal") != NULL)
        append_text(r, args, "--wal=/var/lib/postgresql/wal");
    if (has_tls(r))
        append_text(r, args, KUBE_TLS_ARGUMENT);
    if (strcmp(text_or(r, "tls", "mode", "on"), "mutual") == 0)
        append_text(r, args, KUBE_CLIENTS_ARGUMENT);
    if (has_members(r))
        member_arguments(r, args);
}

static void port(struct render *r, mut ports, const char *name, int64_t number)
{
    mut p = append_object(r, ports);
    add_text(r, p, "name", name);
    add_int(r, p, "containerPort", number);
    add_text(r, p, "protocol", "TCP");
}

static void container_security(struct render *r, mut container)
{
    mut security = add_object(r, container, "securityContext");
    add_bool(r, security, "allowPrivilegeEscalation", false);
    add_bool(r, security, "readOnlyRootFilesystem", true);
    append_text(r, add_array(r, add_object(r, security, "capabilities"), "drop"), "ALL");
}

static void container(struct render *r, mut pod)
{
    mut c = append_object(r, add_array(r, pod, "containers"));
    add_text(r, c, "name", "postgresql");
    add_text(r, c, "image", text_or(r, "postgresql", "image", r->shard->image));
    add_copy(r, c, "imagePullPolicy", field(r, "postgresql", "imagePullPolicy"));
    arguments(r, c);
    if (has_members(r))
        member_environment(r, c);
    add_text(r, c, "terminationMessagePolicy", "FallbackToLogsOnError"); /* its last words in its status */
    mut ports = add_array(r, c, "ports");
    port(r, ports, "postgresql", 5432);
    port(r, ports, "agent", KUBE_AGENT_PORT);
    add_copy(r, c, "resources", field(r, NULL, "resources"));
    probes(r, c);
    container_security(r, c);
    mut mounts = add_array(r, c, "volumeMounts");
    mount(r, mounts, "data", "/var/lib/postgresql/data", false);
    mount(r, mounts, "run", "/var/run/postgresql", false);
    mount(r, mounts, "tmp", "/tmp", false);
    mount(r, mounts, "settings", "/etc/shardherd/settings", true);
    mount(r, mounts, "credentials", "/etc/shardherd/credentials", true);
    if (has_tls(r))
        mount(r, mounts, "tls", "/etc/shardherd/tls", true);
    if (has_members(r))
        mount(r, mounts, "agent", "/etc/shardherd/agent", true);
    if (field(r, "storage", "wal") != NULL)
        mount(r, mounts, "wal", "/var/lib/postgresql/wal", false);
}

static mut volume(struct render *r, mut volumes, const char *name)
{
    mut v = append_object(r, volumes);
    add_text(r, v, "name", name);
    return v;
}

/* The server's certificate again, without the authority: with that at hand the agent would ask its callers
 * for certificates of it, which probes have none of. */
static void agent_volume(struct render *r, mut all, const char *name)
{
    static const char *const keys[] = {"tls.crt", "tls.key"};
    mut secret = add_object(r, volume(r, all, "agent"), "secret");
    add_text(r, secret, "secretName", name);
    mut items = add_array(r, secret, "items");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        mut item = append_object(r, items);
        add_text(r, item, "key", keys[i]);
        add_text(r, item, "path", keys[i]);
    }
}

static void volumes(struct render *r, mut pod)
{
    mut all = add_array(r, pod, "volumes");
    char *credentials = mem_printf("%s-credentials", r->name), *tls = mem_printf("%s-tls", r->name);
    add_text(r, add_object(r, volume(r, all, "run"), "emptyDir"), "medium", "Memory");
    (void)add_object(r, volume(r, all, "tmp"), "emptyDir");
    add_text(r, add_object(r, volume(r, all, "settings"), "configMap"), "name", r->name);
    mut secret = add_object(r, volume(r, all, "credentials"), "secret");
    add_text(r, secret, "secretName", credentials);
    if (has_members(r))
        add_int(r, secret, "defaultMode", 0400); /* agents refuse a token that others may read */
    if (has_tls(r))
        add_text(r, add_object(r, volume(r, all, "tls"), "secret"), "secretName",
                 text_or(r, "tls", "secret", tls));
    if (has_members(r)) /* orders come with a token, which is not shown in the clear: whatever servers do */
        agent_volume(r, all, has_tls(r) ? text_or(r, "tls", "secret", tls) : tls);
    free(credentials);
    free(tls);
}

/* Instances of one shard prefer different nodes. */
static void anti_affinity(struct render *r, mut pod)
{
    mut rules = add_array(r, add_object(r, add_object(r, pod, "affinity"), "podAntiAffinity"),
                          "preferredDuringSchedulingIgnoredDuringExecution");
    mut rule = append_object(r, rules);
    add_int(r, rule, "weight", 100);
    mut term = add_object(r, rule, "podAffinityTerm");
    add_text(r, term, "topologyKey", "kubernetes.io/hostname");
    selector(r, add_object(r, add_object(r, term, "labelSelector"), "matchLabels"));
}

static void pod_security(struct render *r, mut pod)
{
    int64_t user = int_or(r, "security", "runAsUser", 999), group = int_or(r, "security", "fsGroup", 999);
    mut security = add_object(r, pod, "securityContext");
    add_bool(r, security, "runAsNonRoot", true);
    add_int(r, security, "runAsUser", user);
    add_int(r, security, "runAsGroup", group);
    add_int(r, security, "fsGroup", group);
    add_text(r, security, "fsGroupChangePolicy", "OnRootMismatch");
    add_text(r, add_object(r, security, "seccompProfile"), "type", "RuntimeDefault");
    add_copy(r, security, "seLinuxOptions", field(r, "security", "seLinuxOptions"));
}

static void pod_template(struct render *r, mut spec, const char *settings)
{
    static const char *const scheduling[] = {"nodeSelector", "tolerations", "topologySpreadConstraints",
                                             "priorityClassName"};
    char sum[KUBE_SETTINGS_SUM];
    mut template = add_object(r, spec, "template"), metadata = add_object(r, template, "metadata");
    labels(r, add_object(r, metadata, "labels"));
    yyjson_val *own = field(r, NULL, "annotations");
    mut annotations = own != NULL ? yyjson_val_mut_copy(r->doc, own) : yyjson_mut_obj(r->doc);
    (void)yyjson_mut_obj_add(metadata, yyjson_mut_str(r->doc, "annotations"), annotations);
    kube_settings_sum(settings, sum);
    add_text(r, annotations, "shardherd.io/settings", sum);
    mut pod = add_object(r, template, "spec");
    add_text(r, pod, "serviceAccountName", r->name);
    add_bool(r, pod, "automountServiceAccountToken", false);
    add_int(r, pod, "terminationGracePeriodSeconds", 90);
    add_bool(r, pod, "enableServiceLinks", false);
    pod_security(r, pod);
    for (size_t i = 0; i < sizeof scheduling / sizeof scheduling[0]; i++)
        add_copy(r, pod, scheduling[i], field(r, "scheduling", scheduling[i]));
    if (field(r, "scheduling", "affinity") != NULL)
        add_copy(r, pod, "affinity", field(r, "scheduling", "affinity"));
    else
        anti_affinity(r, pod);
    add_copy(r, pod, "imagePullSecrets", field(r, "postgresql", "imagePullSecrets"));
    container(r, pod);
    volumes(r, pod);
}

static void claim(struct render *r, mut claims, const char *name, yyjson_val *size, const char *otherwise,
                  yyjson_val *class)
{
    mut c = append_object(r, claims);
    add_text(r, c, "apiVersion", "v1");
    add_text(r, c, "kind", "PersistentVolumeClaim");
    mut metadata = add_object(r, c, "metadata");
    add_text(r, metadata, "name", name);
    selector(r, add_object(r, metadata, "labels"));
    if (r->shard->owner_uid != NULL)
        add_text(r, add_object(r, metadata, "annotations"), "shardherd.io/owner-uid", r->shard->owner_uid);
    mut spec = add_object(r, c, "spec");
    append_text(r, add_array(r, spec, "accessModes"), "ReadWriteOnce");
    add_text(r, spec, "volumeMode", "Filesystem");
    add_copy(r, spec, "storageClassName", class);
    mut requests = add_object(r, add_object(r, spec, "resources"), "requests");
    if (size != NULL)
        add_copy(r, requests, "storage", size);
    else
        add_text(r, requests, "storage", otherwise);
}

/* For lists that read nothing but metadata: how many instances the shard was made with. */
static void members_annotations(struct render *r, mut annotations)
{
    char *count = mem_printf("%lld", (long long)instances_of(r));
    char *standby = kube_settings_standby(field(r, "postgresql", "parameters"));
    add_text(r, annotations, KUBE_INSTANCES_ANNOTATION, count);
    add_text(r, annotations, KUBE_STANDBY_ANNOTATION, standby);
    if (!has_tls(r))
        add_text(r, annotations, KUBE_PLAIN_ANNOTATION, "true");
    free(count);
    free(standby);
}

static void set_annotations(struct render *r, mut metadata)
{
    yyjson_val *version = field(r, "postgresql", "version");
    if (version == NULL && !has_members(r))
        return;
    mut annotations = add_object(r, metadata, "annotations");
    add_copy(r, annotations, KUBE_VERSION_ANNOTATION, version);
    if (has_members(r))
        members_annotations(r, annotations);
}

static int stateful_set(struct render *r, const char *settings)
{
    mut root = begin(r, "apps/v1", "StatefulSet", "");
    set_annotations(r, yyjson_mut_obj_get(root, "metadata"));
    mut spec = add_object(r, root, "spec");
    char *pods = mem_printf("%s-pods", r->name);
    bool suspended = yyjson_get_bool(field(r, NULL, "suspended"));
    add_int(r, spec, "replicas", suspended ? 0 : instances_of(r));
    add_text(r, spec, "serviceName", pods);
    add_text(r, spec, "podManagementPolicy", "Parallel");
    selector(r, add_object(r, add_object(r, spec, "selector"), "matchLabels"));
    /* who is the primary is not known to Kubernetes, which would replace it at any moment */
    add_text(r, add_object(r, spec, "updateStrategy"), "type",
             has_members(r) ? "OnDelete" : text_or(r, "update", "strategy", "RollingUpdate"));
    mut retention = add_object(r, spec, "persistentVolumeClaimRetentionPolicy");
    add_text(r, retention, "whenDeleted", r->shard->owns_data ? "Delete" : "Retain");
    add_text(r, retention, "whenScaled", "Retain");
    pod_template(r, spec, settings);
    mut claims = add_array(r, spec, "volumeClaimTemplates");
    claim(r, claims, "data", field(r, "storage", "size"), "10Gi", field(r, "storage", "class"));
    yyjson_val *wal = field(r, "storage", "wal");
    if (wal != NULL)
        claim(r, claims, "wal", yyjson_obj_get(wal, "size"), "1Gi", yyjson_obj_get(wal, "class"));
    free(pods);
    return finish(r, root, "/apis/apps/v1", "statefulsets", "");
}

int kube_objects_each(const struct kube_shard *shard, kube_object_cb cb, void *data, struct err *err)
{
    struct render r = {.shard = shard, .cb = cb, .data = data, .err = err};
    struct buf settings = {0};
    r.doc = yyjson_mut_doc_new(NULL);
    r.name = kube_shard_name(shard);
    bool policy = !yyjson_is_false(field(&r, "network", "policy"));
    int rc = settings_of(&r, &settings);
    int (*const first[])(struct render *) = {service_account, role, role_binding, headless_service};
    for (size_t i = 0; rc == 0 && i < sizeof first / sizeof first[0]; i++)
        rc = first[i](&r);
    if (rc == 0)
        rc = config_map(&r, buf_text(&settings));
    if (rc == 0)
        rc = service(&r, "", has_members(&r) ? "primary" : NULL);
    if (rc == 0)
        rc = service(&r, "-ro", has_members(&r) ? "standby" : NULL);
    if (rc == 0 && policy)
        rc = network_policy(&r);
    if (rc == 0)
        rc = disruption_budget(&r);
    if (rc == 0)
        rc = stateful_set(&r, buf_text(&settings));
    buf_free(&settings);
    free(r.name);
    yyjson_mut_doc_free(r.doc);
    return rc;
}
