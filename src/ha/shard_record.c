#include "ha/shard_record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <yyjson.h>

#include "base/text.h"

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyz0123456789-."
#define HISTORY_MAX  (HA_TIMELINES_MAX - 1)

void shard_record_init(struct shard_record *r, const char *const *names, unsigned count,
                       const struct ha_policy *policy)
{
    struct ha_record ha;
    ha_set standbys = 0;
    memset(r, 0, sizeof *r);
    r->count = count;
    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(r->names[i], HA_NAME_SIZE, "%s", names[i]);
        if (i > 0)
            standbys |= HA_BIT(i);
    }
    ha_record_init(&ha, policy, 0, standbys);
    failover_record_init(&r->op, &ha);
    r->op.state = FAILOVER_DONE;
}

int shard_record_find(const struct shard_record *r, const char *name)
{
    for (unsigned i = 0; i < r->count; i++)
        if (strcmp(r->names[i], name) == 0)
            return (int)i;
    return -1;
}

bool shard_record_began(struct shard_record *r, const struct shard_primaryship *began)
{
    unsigned n = r->history_count;
    if (n > 0 && r->history[n - 1].term >= began->term)
        return false;
    if (n == HISTORY_MAX)
        memmove(&r->history[0], &r->history[1], --n * sizeof r->history[0]);
    r->history[n] = *began;
    r->history_count = n + 1;
    return true;
}

const struct shard_primaryship *shard_record_primaryship(const struct shard_record *r, uint64_t term)
{
    for (unsigned i = 0; i < r->history_count; i++)
        if (r->history[i].term == term)
            return &r->history[i];
    return NULL;
}

/* From the newest back to its parents, then turned around. */
void shard_record_history(const struct shard_record *r, uint64_t term, uint64_t end, struct ha_history *ret)
{
    struct ha_history h = {0};
    memset(ret, 0, sizeof *ret);
    for (const struct shard_primaryship *p = shard_record_primaryship(r, term); p != NULL;
         p = p->parent < p->term ? shard_record_primaryship(r, p->parent) : NULL) {
        h.items[h.count].timeline = p->timeline;
        h.items[h.count].term = p->term;
        h.items[h.count++].end = end;
        end = p->start;
    }
    for (unsigned i = 0; i < h.count; i++)
        ret->items[i] = h.items[h.count - 1 - i];
    ret->count = h.count;
}

/* ---- writing ---- */

static void add_number(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key, uint64_t number)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, number);
    (void)yyjson_mut_obj_add_strcpy(doc, object, key, text);
}

static void add_instance(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key,
                         const struct shard_record *r, int i)
{
    if (i < 0)
        (void)yyjson_mut_obj_add_null(doc, object, key);
    else
        (void)yyjson_mut_obj_add_str(doc, object, key, r->names[i]);
}

static void add_operation(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct shard_record *r)
{
    yyjson_mut_val *o = yyjson_mut_obj_add_obj(doc, root, "operation");
    (void)yyjson_mut_obj_add_str(doc, o, "id", r->op.id);
    (void)yyjson_mut_obj_add_str(doc, o, "kind", failover_kind_name(r->op.kind));
    (void)yyjson_mut_obj_add_str(doc, o, "state", failover_state_name(r->op.state));
    add_instance(doc, o, "target", r, r->op.target);
    add_instance(doc, o, "allow_loss", r, r->op.allow_loss);
    (void)yyjson_mut_obj_add_int(doc, o, "rule", r->op.rule);
    (void)yyjson_mut_obj_add_str(doc, o, "reason", r->op.reason);
}

static void add_config(yyjson_mut_doc *doc, yyjson_mut_val *list, const struct shard_record *r,
                       const struct ha_config *config)
{
    yyjson_mut_val *c = yyjson_mut_arr_add_obj(doc, list);
    add_number(doc, c, "epoch", config->epoch);
    add_number(doc, c, "term", config->term);
    add_instance(doc, c, "primary", r, config->primary);
    yyjson_mut_val *members = yyjson_mut_obj_add_arr(doc, c, "members");
    for (unsigned i = 0; i < r->count; i++)
        if ((config->members & HA_BIT(i)) != 0)
            (void)yyjson_mut_arr_add_str(doc, members, r->names[i]);
    (void)yyjson_mut_obj_add_uint(doc, c, "k", config->k);
}

static void add_history(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct shard_record *r)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, root, "history");
    char lsn[TEXT_LSN_SIZE];
    for (unsigned i = 0; i < r->history_count; i++) {
        yyjson_mut_val *item = yyjson_mut_arr_add_obj(doc, list);
        add_number(doc, item, "term", r->history[i].term);
        add_number(doc, item, "parent", r->history[i].parent);
        (void)yyjson_mut_obj_add_uint(doc, item, "timeline", r->history[i].timeline);
        text_from_lsn(r->history[i].start, lsn);
        (void)yyjson_mut_obj_add_strcpy(doc, item, "start", lsn);
    }
}

char *shard_record_text(const struct shard_record *r)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_val *names = yyjson_mut_obj_add_arr(doc, root, "instances");
    for (unsigned i = 0; i < r->count; i++)
        (void)yyjson_mut_arr_add_str(doc, names, r->names[i]);
    add_operation(doc, root, r);
    add_number(doc, root, "term", r->op.ha.term);
    add_number(doc, root, "epoch", r->op.ha.epoch);
    (void)yyjson_mut_obj_add_str(doc, root, "durability", ha_durability_name(r->op.ha.durability));
    (void)yyjson_mut_obj_add_bool(doc, root, "maintenance", r->maintenance);
    yyjson_mut_val *configs = yyjson_mut_obj_add_arr(doc, root, "configs");
    for (unsigned i = 0; i < r->op.ha.count; i++)
        add_config(doc, configs, r, &r->op.ha.configs[i]);
    add_history(doc, root, r);
    char *text = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    return text;
}

/* ---- reading ---- */

struct reader {
    struct shard_record r;
    const char *bad; /* the first that cannot be, NULL = none yet */
};

static void wrong(struct reader *in, const char *what)
{
    if (in->bad == NULL)
        in->bad = what;
}

static uint64_t number_of(struct reader *in, yyjson_val *object, const char *key)
{
    uint64_t number = 0;
    const char *text = yyjson_get_str(yyjson_obj_get(object, key));
    if (text == NULL || !text_to_uint64(text, &number))
        wrong(in, key);
    return number;
}

static unsigned small_of(struct reader *in, yyjson_val *object, const char *key, uint64_t most)
{
    yyjson_val *value = yyjson_obj_get(object, key);
    if (yyjson_is_uint(value) && yyjson_get_uint(value) <= most)
        return (unsigned)yyjson_get_uint(value);
    wrong(in, key);
    return 0;
}

static int choice_of(struct reader *in, yyjson_val *object, const char *key, int count,
                     const char *(*name)(int choice))
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, key));
    for (int i = 0; text != NULL && i < count; i++)
        if (strcmp(text, name(i)) == 0)
            return i;
    wrong(in, key);
    return 0;
}

static const char *kind_name(int kind)
{
    return failover_kind_name((enum failover_kind)kind);
}

static const char *state_name(int state)
{
    return failover_state_name((enum failover_state)state);
}

static const char *durability_name(int durability)
{
    return ha_durability_name((enum ha_durability)durability);
}

static int instance_of(struct reader *in, yyjson_val *value, const char *key)
{
    const char *name = yyjson_get_str(value);
    int found = name != NULL ? shard_record_find(&in->r, name) : -1;
    if (found < 0)
        wrong(in, key);
    return found < 0 ? 0 : found;
}

static int perhaps_instance_of(struct reader *in, yyjson_val *object, const char *key)
{
    yyjson_val *value = yyjson_obj_get(object, key);
    return yyjson_is_null(value) ? -1 : instance_of(in, value, key);
}

static void copy_text(struct reader *in, yyjson_val *object, const char *key, char *out, size_t size)
{
    yyjson_val *value = yyjson_obj_get(object, key);
    if (!yyjson_is_str(value) || yyjson_get_len(value) >= size ||
        strlen(yyjson_get_str(value)) != yyjson_get_len(value))
        wrong(in, key);
    else
        memcpy(out, yyjson_get_str(value), yyjson_get_len(value) + 1);
}

static void read_instances(struct reader *in, yyjson_val *list)
{
    size_t count = yyjson_arr_size(list);
    if (count < 1 || count > HA_INSTANCES_MAX) {
        wrong(in, "instances");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const char *name = yyjson_get_str(yyjson_arr_get(list, i));
        size_t length = name != NULL ? strlen(name) : 0;
        if (length == 0 || length >= HA_NAME_SIZE || strspn(name, NAME_LETTERS) != length ||
            shard_record_find(&in->r, name) >= 0) {
            wrong(in, "instances");
            return;
        }
        memcpy(in->r.names[in->r.count++], name, length + 1);
    }
}

static void read_operation(struct reader *in, yyjson_val *o)
{
    struct failover_record *op = &in->r.op;
    copy_text(in, o, "id", op->id, sizeof op->id);
    op->kind = (enum failover_kind)choice_of(in, o, "kind", FAILOVER_KIND_COUNT, kind_name);
    op->state = (enum failover_state)choice_of(in, o, "state", FAILOVER_STATE_COUNT, state_name);
    op->target = perhaps_instance_of(in, o, "target");
    op->allow_loss = perhaps_instance_of(in, o, "allow_loss");
    op->rule = (int)small_of(in, o, "rule", HA_F_COUNT);
    copy_text(in, o, "reason", op->reason, sizeof op->reason);
}

static void read_config(struct reader *in, yyjson_val *item, struct ha_config *c)
{
    yyjson_val *members = yyjson_obj_get(item, "members");
    c->epoch = number_of(in, item, "epoch");
    c->term = number_of(in, item, "term");
    c->primary = instance_of(in, yyjson_obj_get(item, "primary"), "primary");
    if (!yyjson_is_arr(members))
        wrong(in, "members");
    for (size_t i = 0; i < yyjson_arr_size(members) && in->bad == NULL; i++)
        c->members |= HA_BIT(instance_of(in, yyjson_arr_get(members, i), "members"));
    if ((c->members & HA_BIT(c->primary)) != 0)
        wrong(in, "members");
    c->k = small_of(in, item, "k", ha_size(c->members));
}

/* Epochs and terms grow from one to the next, and none is above what was given away. */
static void read_configs(struct reader *in, yyjson_val *list)
{
    struct ha_record *ha = &in->r.op.ha;
    size_t count = yyjson_arr_size(list);
    if (count < 1 || count > HA_CONFIGS_MAX)
        wrong(in, "configs");
    for (size_t i = 0; i < count && in->bad == NULL; i++) {
        struct ha_config *c = &ha->configs[ha->count++];
        read_config(in, yyjson_arr_get(list, i), c);
        if (c->epoch > ha->epoch || c->term > ha->term || c->term == 0 ||
            (i > 0 && (c->epoch <= c[-1].epoch || c->term < c[-1].term)))
            wrong(in, "configs");
    }
}

static void read_history(struct reader *in, yyjson_val *list)
{
    size_t count = yyjson_arr_size(list);
    if (!yyjson_is_arr(list) || count > HISTORY_MAX)
        wrong(in, "history");
    for (size_t i = 0; i < count && in->bad == NULL; i++) {
        yyjson_val *item = yyjson_arr_get(list, i);
        struct shard_primaryship began = {.term = number_of(in, item, "term"),
                                          .parent = number_of(in, item, "parent"),
                                          .timeline = small_of(in, item, "timeline", UINT32_MAX)};
        const char *start = yyjson_get_str(yyjson_obj_get(item, "start"));
        if (start == NULL || !text_to_lsn(start, &began.start) || !shard_record_began(&in->r, &began) ||
            began.term > in->r.op.ha.term || began.parent >= began.term)
            wrong(in, "history");
    }
}

/* Names first: what follows speaks of them. */
static void read_all(struct reader *in, yyjson_val *root)
{
    read_instances(in, yyjson_obj_get(root, "instances"));
    in->r.op.ha.term = number_of(in, root, "term");
    in->r.op.ha.epoch = number_of(in, root, "epoch");
    in->r.op.ha.durability =
        (enum ha_durability)choice_of(in, root, "durability", HA_ASYNC + 1, durability_name);
    yyjson_val *maintenance = yyjson_obj_get(root, "maintenance");
    if (maintenance != NULL && !yyjson_is_bool(maintenance)) /* older records have none */
        wrong(in, "maintenance");
    in->r.maintenance = yyjson_is_true(maintenance);
    read_operation(in, yyjson_obj_get(root, "operation"));
    read_configs(in, yyjson_obj_get(root, "configs"));
    read_history(in, yyjson_obj_get(root, "history"));
}

int shard_record_parse(const char *json, size_t length, struct shard_record *ret, struct err *err)
{
    struct reader in = {0};
    yyjson_doc *doc = yyjson_read(json, length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (yyjson_is_obj(root))
        read_all(&in, root);
    else
        in.bad = "the document itself, which is no JSON object";
    yyjson_doc_free(doc);
    if (in.bad != NULL)
        return err_set(err, ERRC_CORRUPT, "the record of the shard in the store is damaged: %s", in.bad);
    *ret = in.r;
    return 0;
}
