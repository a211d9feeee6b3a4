#include "load/load_state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/load_keys.h"

static const char change_letters[CHANGE_MAX + 1] = "uidt";

void load_state_init(struct load_state *state, const struct load_shape *shape)
{
    memset(state, 0, sizeof *state);
    state->shape = *shape;
    state->version = mem_array(shape->customers, sizeof *state->version);
    state->first = mem_array(shape->customers, sizeof *state->first);
    state->next = mem_array(shape->customers, sizeof *state->next);
    state->pending = mem_array(shape->customers, sizeof *state->pending);
    for (uint32_t i = 0; i < shape->customers; i++) {
        state->first[i] = 1;
        state->next[i] = 1 + shape->orders;
    }
}

void load_state_fini(struct load_state *state)
{
    free(state->version);
    free(state->first);
    free(state->next);
    free(state->pending);
    memset(state, 0, sizeof *state);
}

void load_state_plan(const struct load_state *state, enum load_change change, uint32_t number,
                     struct load_write *ret)
{
    assert(number < state->shape.customers);
    uint32_t version = state->version[number];
    *ret = (struct load_write){change, number, version, 0};
    if (change == CHANGE_UPDATE || change == CHANGE_TX)
        ret->version = version + 1;
    if (change == CHANGE_INSERT || change == CHANGE_TX)
        ret->order = state->next[number];
    if (change == CHANGE_DELETE)
        ret->order = state->first[number];
}

static int check_follows(const struct load_state *state, const struct load_write *w, struct err *err)
{
    struct load_write plan;
    if (w->number >= state->shape.customers)
        return err_set(err, ERRC_CORRUPT, "there is no customer %u", w->number);
    load_state_plan(state, w->change, w->number, &plan);
    bool right = plan.order == w->order;
    if (w->change == CHANGE_UPDATE || w->change == CHANGE_TX)
        right = right && plan.version == w->version;
    if (w->change == CHANGE_DELETE)
        right = right && state->first[w->number] < state->next[w->number];
    if (!right)
        return err_set(err, ERRC_CORRUPT,
                       "write '%c' to version %u, order %u of customer %u does not follow version %u, "
                       "orders %u to %u",
                       change_letters[w->change], w->version, w->order, w->number, state->version[w->number],
                       state->first[w->number], state->next[w->number]);
    return 0;
}

int load_state_apply(struct load_state *state, const struct load_write *w, struct err *err)
{
    int code = check_follows(state, w, err);
    if (code != 0)
        return code;
    if (w->change == CHANGE_UPDATE || w->change == CHANGE_TX)
        state->version[w->number]++;
    if (w->change == CHANGE_INSERT || w->change == CHANGE_TX)
        state->next[w->number]++;
    if (w->change == CHANGE_DELETE)
        state->first[w->number]++;
    state->pending[w->number] = 0;
    state->writes++;
    return 0;
}

int load_state_doubt(struct load_state *state, const struct load_write *w, struct err *err)
{
    static const uint8_t bits[CHANGE_MAX] = {
        [CHANGE_UPDATE] = PENDING_VERSION,
        [CHANGE_INSERT] = PENDING_NEXT,
        [CHANGE_DELETE] = PENDING_FIRST,
        [CHANGE_TX] = PENDING_VERSION | PENDING_NEXT,
    };
    int code = check_follows(state, w, err);
    if (code != 0)
        return code;
    state->pending[w->number] = bits[w->change];
    return 0;
}

uint64_t load_state_orders(const struct load_state *state)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < state->shape.customers; i++)
        total += state->next[i] - state->first[i];
    return total;
}

/* ---- writing records ---- */

static void add_number(struct buf *out, uint32_t value)
{
    char digits[12];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    digits[--at] = ' ';
    buf_add(out, digits + at, sizeof digits - at);
}

void load_record_header(struct buf *out, const struct load_shape *shape)
{
    buf_printf(out, "shardherd-load 1 key=%s customers=%u orders=%u\n", key_type_name(shape->key_type),
               shape->customers, shape->orders);
}

void load_record_write(struct buf *out, const struct load_write *w)
{
    buf_addc(out, change_letters[w->change]);
    add_number(out, w->number);
    if (w->change == CHANGE_UPDATE || w->change == CHANGE_TX)
        add_number(out, w->version);
    if (w->change != CHANGE_UPDATE)
        add_number(out, w->order);
    buf_addc(out, '\n');
}

void load_record_doubt(struct buf *out, const struct load_write *w)
{
    buf_printf(out, "? %c %u %u %u\n", change_letters[w->change], w->number, w->version, w->order);
}

void load_record_found(struct buf *out, const struct load_state *state, enum finding_kind kind,
                       uint32_t number)
{
    buf_printf(out, "! %s %u %u %u %u\n", finding_kind_name(kind), number, state->version[number],
               state->first[number], state->next[number]);
}

/* ---- reading records ---- */

static bool take_word(const char **at, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*at, word, n) != 0)
        return false;
    *at += n;
    return true;
}

static bool take_number(const char **at, uint32_t *ret)
{
    uint64_t value = 0;
    const char *p = *at;
    if (*p < '0' || *p > '9')
        return false;
    for (; *p >= '0' && *p <= '9'; p++) {
        value = value * 10 + (uint64_t)(*p - '0');
        if (value > UINT32_MAX)
            return false;
    }
    *at = p;
    *ret = (uint32_t)value;
    return true;
}

static bool take_field(const char **at, uint32_t *ret)
{
    return take_word(at, " ") && take_number(at, ret);
}

static int take_change(const char **at)
{
    const char *found = **at != '\0' ? strchr(change_letters, **at) : NULL;
    if (found == NULL)
        return -1;
    (*at)++;
    return (int)(found - change_letters);
}

int load_record_parse_header(const char *line, struct load_shape *ret, struct err *err)
{
    struct load_shape shape;
    const char *at = line;
    char type[32];
    size_t n = 0;
    bool right = take_word(&at, "shardherd-load 1 key=");
    while (right && *at != ' ' && *at != '\0' && n + 1 < sizeof type)
        type[n++] = *at++;
    type[n] = '\0';
    if (right && strcmp(type, "character") == 0 && take_word(&at, " varying"))
        (void)memcpy(type, "varchar", 8);
    right = right && take_word(&at, " customers=") && take_number(&at, &shape.customers) &&
            take_word(&at, " orders=") && take_number(&at, &shape.orders) && *at == '\0';
    int key_type = right ? key_type_parse(type) : -1;
    if (key_type < 0)
        return err_set(err, ERRC_CORRUPT, "\"%.60s\" is not the first line of a ledger", line);
    shape.key_type = (enum key_type)key_type;
    if (shape.customers == 0 || shape.customers > load_key_limit(shape.key_type))
        return err_set(err, ERRC_CORRUPT, "%u customers cannot be", shape.customers);
    *ret = shape;
    return 0;
}

static bool replay_write(struct load_state *state, const char *at, struct err *err, int *ret_code)
{
    struct load_write w = {0};
    int change = take_change(&at);
    if (change < 0)
        return false;
    w.change = (enum load_change)change;
    bool right = take_field(&at, &w.number);
    if (w.change == CHANGE_UPDATE || w.change == CHANGE_TX)
        right = right && take_field(&at, &w.version);
    if (w.change != CHANGE_UPDATE)
        right = right && take_field(&at, &w.order);
    if (!right || *at != '\0')
        return false;
    *ret_code = load_state_apply(state, &w, err);
    return true;
}

static bool replay_doubt(struct load_state *state, const char *at, struct err *err, int *ret_code)
{
    struct load_write w = {0};
    int change = take_change(&at);
    if (change < 0 || !take_field(&at, &w.number) || !take_field(&at, &w.version) ||
        !take_field(&at, &w.order) || *at != '\0')
        return false;
    w.change = (enum load_change)change;
    *ret_code = load_state_doubt(state, &w, err);
    return true;
}

static bool replay_found(struct load_state *state, const char *at)
{
    uint32_t number, version, first, next;
    int kind;
    for (kind = 0; kind < FINDING_MAX; kind++) {
        if (take_word(&at, finding_kind_name((enum finding_kind)kind)))
            break;
    }
    if (kind == FINDING_MAX || !take_field(&at, &number) || !take_field(&at, &version) ||
        !take_field(&at, &first) || !take_field(&at, &next) || *at != '\0')
        return false;
    if (number >= state->shape.customers || first < 1 || first > next)
        return false;
    state->version[number] = version;
    state->first[number] = first;
    state->next[number] = next;
    state->pending[number] = 0;
    state->found[kind]++;
    return true;
}

int load_record_replay(struct load_state *state, const char *line, struct err *err)
{
    const char *at = line;
    bool right;
    int code = 0;
    if (take_word(&at, "? "))
        right = replay_doubt(state, at, err, &code);
    else if (take_word(&at, "! "))
        right = replay_found(state, at);
    else if (take_word(&at, "run "))
        right = take_number(&at, &state->unclean_clients) && *at == '\0';
    else if (strcmp(line, "end") == 0) {
        right = true;
        state->unclean_clients = 0;
    } else
        right = replay_write(state, at, err, &code);
    if (!right)
        return err_set(err, ERRC_CORRUPT, "\"%.60s\" is not a record of a ledger", line);
    return code;
}
