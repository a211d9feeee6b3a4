#include "discovery/kubernetes_entry.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define DEFAULT_PORT 5432

struct maker {
    const struct cluster_view *view;
    struct kubernetes_entries made;
};

static bool same(const char *a, const char *b)
{
    return a != NULL && b != NULL && strcmp(a, b) == 0;
}

/* ---- looking around ---- */

static bool near(const struct cluster_object *a, const struct cluster_object *b)
{
    return same(a->name_space, b->name_space);
}

/* The pod of that name beside the object; NULL if there is none, or it is on its way out. */
static const struct cluster_object *pod_named(const struct maker *m, const struct cluster_object *beside,
                                              const char *name)
{
    for (size_t i = 0; i < m->view->count; i++) {
        const struct cluster_object *o = m->view->objects[i];
        if (o->kind == CLUSTER_POD && near(o, beside) && same(o->name, name))
            return o;
    }
    return NULL;
}

static bool is_standby(const struct cluster_object *pod)
{
    return pod != NULL && (same(pod->role, "standby") || same(pod->role, "replica"));
}

/* ---- adding ---- */

static struct kubernetes_entry *find(const struct maker *m, const char *name)
{
    for (size_t i = 0; i < m->made.count; i++)
        if (strcmp(m->made.items[i].name, name) == 0)
            return &m->made.items[i];
    return NULL;
}

static char *full_name(const struct maker *m, const struct cluster_object *o, const char *name)
{
    if (o->name_space == NULL || same(o->name_space, m->view->name_space))
        return mem_strdup(name);
    return mem_printf("%s.%s", name, o->name_space);
}

/* What `said` says; the name is the pod's or the service's. NULL when there is one of that name already. */
static struct kubernetes_entry *add(struct maker *m, const char *source, const struct cluster_object *said,
                                    const char *name)
{
    char *full = full_name(m, said, name);
    struct kubernetes_entry *other = find(m, full);
    const char *clash = NULL;
    if (other != NULL && same(other->pod, name)) { /* the same server, seen twice */
        free(full);
        return NULL;
    }
    if (other != NULL)
        clash = other->source;
    m->made.items = mem_resize(m->made.items, m->made.count + 1, sizeof *m->made.items);
    struct kubernetes_entry *e = &m->made.items[m->made.count++];
    *e = (struct kubernetes_entry){
        .source = source,
        .name = full,
        .clash = clash,
        .managed = said->managed,
        .name_space = mem_strdup(said->name_space),
        .database = mem_strdup(said->database),
        .shard = mem_strdup(said->shard),
        .port = said->port != 0 ? said->port : DEFAULT_PORT,
        .dbname = mem_strdup(said->dbname),
        .user = mem_strdup(said->user),
        .sslmode = mem_strdup(said->sslmode),
        .group = said->kind != CLUSTER_POD ? mem_strdup(said->name) : NULL,
        .service_address = said->kind == CLUSTER_SERVICE ? mem_strdup(said->address) : NULL,
    };
    if (said->secret != NULL) {
        e->secret = mem_strdup(said->secret);
        e->user_key = mem_strdup(said->user_key != NULL ? said->user_key : "username");
        e->pass_key = mem_strdup(said->pass_key != NULL ? said->pass_key : "password");
    }
    return e;
}

static void add_pod(struct kubernetes_entry *e, const struct cluster_object *pod, const char *name)
{
    free(e->pod);
    e->pod = mem_strdup(name);
    if (pod == NULL || pod->terminating)
        return;
    free(e->pod_address);
    e->pod_address = mem_strdup(pod->address);
    e->restarts = pod->restarts;
}

/* ---- stateful sets: ours and labelled ones ---- */

static void set_secret(struct kubernetes_entry *e, char *name, const char *user_key)
{
    if (e->secret == NULL) {
        e->secret = name;
        e->user_key = mem_strdup(user_key);
        e->pass_key = mem_strdup("password");
    } else
        free(name);
}

static void add_own_pod(struct maker *m, const struct cluster_object *set, const char *name, unsigned number)
{
    const struct cluster_object *pod = pod_named(m, set, name);
    bool primary = pod != NULL && pod->role != NULL ? !is_standby(pod) : number == set->ordinal;
    struct kubernetes_entry *e = add(m, "kubernetes", set, name);
    if (e == NULL)
        return;
    add_pod(e, pod, name);
    e->own = true;
    e->host = primary ? mem_printf("%s.%s.svc", set->name, set->name_space)
                      : mem_printf("%s.%s-pods.%s.svc", name, set->name, set->name_space);
    if (e->user == NULL)
        e->user = mem_strdup("shardherd"); /* the agent's superuser */
    if (e->dbname == NULL)
        e->dbname = mem_strdup(set->database);
    set_secret(e, mem_printf("%s-credentials", set->name), "");
}

static void add_labelled_pod_of_set(struct maker *m, const struct cluster_object *set, const char *name)
{
    const struct cluster_object *pod = pod_named(m, set, name);
    bool addressed = pod != NULL && pod->address != NULL && !pod->terminating;
    if (set->service == NULL && !addressed)
        return; /* neither a name nor an address yet */
    struct kubernetes_entry *e = add(m, "label", set, name);
    if (e == NULL)
        return;
    add_pod(e, pod, name);
    e->host = set->service != NULL ? mem_printf("%s.%s.%s.svc", name, set->service, set->name_space)
                                   : mem_strdup(pod->address);
}

static void add_set(struct maker *m, const struct cluster_object *set)
{
    if ((!set->managed && !set->discover) || set->name_space == NULL)
        return;
    for (int i = 0; i < set->replicas; i++) {
        unsigned number = set->ordinal + (unsigned)i;
        char *name = mem_printf("%s-%u", set->name, number);
        if (set->managed)
            add_own_pod(m, set, name, number);
        else
            add_labelled_pod_of_set(m, set, name);
        free(name);
    }
}

/* ---- CloudNativePG ---- */

static void add_cluster_pod(struct maker *m, const struct cluster_object *cluster,
                            const struct cluster_object *pod)
{
    bool standby = is_standby(pod);
    /* neither role yet: it is being made */
    if (!same(pod->cluster, cluster->name) || !near(pod, cluster) || pod->terminating ||
        pod->address == NULL || pod->role == NULL || (!standby && !same(pod->role, "primary")))
        return;
    struct kubernetes_entry *e = add(m, "cnpg", cluster, pod->name);
    if (e == NULL)
        return;
    add_pod(e, pod, pod->name);
    if (standby)
        e->host = mem_strdup(pod->address);
    else if (cluster->service != NULL)
        e->host = mem_printf("%s.%s.svc", cluster->service, cluster->name_space);
    else
        e->host = mem_printf("%s-rw.%s.svc", cluster->name, cluster->name_space);
    if (e->dbname == NULL)
        e->dbname = mem_strdup("app");
    set_secret(e, mem_printf("%s-%s", cluster->name, cluster->superuser ? "superuser" : "app"), "username");
}

static void add_cluster(struct maker *m, const struct cluster_object *cluster)
{
    for (size_t i = 0; i < m->view->count; i++)
        if (m->view->objects[i]->kind == CLUSTER_POD)
            add_cluster_pod(m, cluster, m->view->objects[i]);
}

/* ---- services ---- */

static void add_endpoint(struct maker *m, const struct cluster_object *service,
                         const struct cluster_object *slice, const struct cluster_endpoint *endpoint)
{
    const char *name = endpoint->pod != NULL ? endpoint->pod : endpoint->hostname;
    char *made = name == NULL ? mem_printf("%s-%s", service->name, endpoint->address) : NULL;
    struct kubernetes_entry *e = add(m, "label", service, name != NULL ? name : made);
    free(made);
    if (e == NULL)
        return;
    if (service->port == 0 && slice->port != 0)
        e->port = slice->port;
    if (endpoint->pod != NULL) {
        add_pod(e, pod_named(m, service, endpoint->pod), endpoint->pod);
        free(e->pod_address);
        e->pod_address = mem_strdup(endpoint->address);
    }
    e->host = endpoint->hostname != NULL
                  ? mem_printf("%s.%s.%s.svc", endpoint->hostname, service->name, service->name_space)
                  : mem_strdup(endpoint->address);
}

static void add_headless(struct maker *m, const struct cluster_object *service)
{
    for (size_t i = 0; i < m->view->count; i++) {
        const struct cluster_object *slice = m->view->objects[i];
        if (slice->kind != CLUSTER_SLICE || !near(slice, service) || !same(slice->service, service->name))
            continue;
        for (size_t k = 0; k < slice->endpoint_count; k++)
            add_endpoint(m, service, slice, &slice->endpoints[k]);
    }
}

/* The one ready pod behind a service; NULL when there is none or more than one. */
static const struct cluster_endpoint *only_endpoint(const struct maker *m,
                                                    const struct cluster_object *service)
{
    const struct cluster_endpoint *only = NULL;
    for (size_t i = 0; i < m->view->count; i++) {
        const struct cluster_object *slice = m->view->objects[i];
        if (slice->kind != CLUSTER_SLICE || !near(slice, service) || !same(slice->service, service->name))
            continue;
        for (size_t k = 0; k < slice->endpoint_count; k++) {
            if (!slice->endpoints[k].ready || slice->endpoints[k].pod == NULL)
                continue;
            if (only != NULL)
                return NULL;
            only = &slice->endpoints[k];
        }
    }
    return only;
}

static void add_service(struct maker *m, const struct cluster_object *service)
{
    if (!service->discover || service->managed || service->name_space == NULL)
        return;
    if (service->headless) {
        add_headless(m, service);
        return;
    }
    struct kubernetes_entry *e = add(m, "label", service, service->name);
    if (e == NULL)
        return;
    e->host = mem_printf("%s.%s.svc", service->name, service->name_space);
    const struct cluster_endpoint *behind = only_endpoint(m, service);
    if (behind == NULL)
        return;
    add_pod(e, pod_named(m, service, behind->pod), behind->pod);
    free(e->pod_address);
    e->pod_address = mem_strdup(behind->address);
}

/* ---- pods by themselves ---- */

static void add_single_pod(struct maker *m, const char *source, const struct cluster_object *pod)
{
    if (pod->address == NULL || pod->terminating)
        return;
    struct kubernetes_entry *e = add(m, source, pod, pod->name);
    if (e == NULL)
        return;
    add_pod(e, pod, pod->name);
    e->host = mem_strdup(pod->address);
}

/* Whether an entry made so far is this pod. */
static bool pod_known(const struct maker *m, const struct cluster_object *pod)
{
    for (size_t i = 0; i < m->made.count; i++)
        if (same(m->made.items[i].pod, pod->name) && same(m->made.items[i].name_space, pod->name_space))
            return true;
    return false;
}

static void add_labelled(struct maker *m, const struct cluster_object *pod)
{
    if (pod->discover && !pod->managed && pod->cluster == NULL && !pod_known(m, pod))
        add_single_pod(m, "label", pod);
}

static void add_recognised(struct maker *m, const struct cluster_object *pod)
{
    bool other = pod->managed || pod->cluster != NULL || pod->discover || pod->refused;
    if (m->view->by_image && pod->postgres && !other && !pod_known(m, pod))
        add_single_pod(m, "image", pod);
}

/* ---- all ---- */

static int by_name(const void *a, const void *b)
{
    const struct cluster_object *x = *(const struct cluster_object *const *)a;
    const struct cluster_object *y = *(const struct cluster_object *const *)b;
    int order =
        strcmp(x->name_space != NULL ? x->name_space : "", y->name_space != NULL ? y->name_space : "");
    return order != 0 ? order : strcmp(x->name, y->name);
}

static void each(struct maker *m, enum cluster_kind kind,
                 void (*make)(struct maker *m, const struct cluster_object *o))
{
    for (size_t i = 0; i < m->view->count; i++)
        if (m->view->objects[i]->kind == kind)
            make(m, m->view->objects[i]);
}

struct kubernetes_entries kubernetes_entries_make(const struct cluster_view *view)
{
    const struct cluster_object **sorted = mem_array(view->count + 1, sizeof *sorted);
    struct cluster_view ordered = *view;
    struct maker m = {.view = &ordered};
    for (size_t i = 0; i < view->count; i++)
        sorted[i] = view->objects[i];
    qsort((void *)sorted, view->count, sizeof *sorted, by_name);
    ordered.objects = sorted;
    each(&m, CLUSTER_STATEFUL_SET, add_set);
    each(&m, CLUSTER_CNPG, add_cluster);
    each(&m, CLUSTER_SERVICE, add_service);
    each(&m, CLUSTER_POD, add_labelled);
    each(&m, CLUSTER_POD, add_recognised);
    free((void *)sorted);
    return m.made;
}

void kubernetes_entries_free(struct kubernetes_entries *entries)
{
    for (size_t i = 0; i < entries->count; i++) {
        struct kubernetes_entry *e = &entries->items[i];
        char *const texts[] = {e->name,     e->name_space, e->database, e->shard,       e->host,
                               e->dbname,   e->user,       e->sslmode,  e->secret,      e->user_key,
                               e->pass_key, e->pod,        e->group,    e->pod_address, e->service_address};
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++)
            free(texts[k]);
    }
    free(entries->items);
    *entries = (struct kubernetes_entries){0};
}
