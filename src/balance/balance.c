#include "balance/balance.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balance/balance_impl.h"
#include "base/mem.h"

const char *balance_kind_name(enum balance_kind kind)
{
    static const char *const names[] = {"sample",    "sample-rows", "split", "isolate",
                                        "rebalance", "merge",       "refuse"};
    _Static_assert(sizeof names / sizeof *names == BALANCE_KIND_MAX, "each kind has its name");
    return kind < BALANCE_KIND_MAX ? names[kind] : "none";
}

/* The diagram is in balance_hot.c. */
static const struct sm_state phases[BALANCE_PHASE_MAX] = {
    [BALANCE_COOL] = {"cool", SM_NEXT(BALANCE_WARM), false},
    [BALANCE_WARM] = {"warm", SM_NEXT(BALANCE_COOL) | SM_NEXT(BALANCE_SAMPLING) | SM_NEXT(BALANCE_REFUSED),
                      false},
    [BALANCE_SAMPLING] = {"sampling",
                          SM_NEXT(BALANCE_COOL) | SM_NEXT(BALANCE_REFUSED) | SM_NEXT(BALANCE_DECIDED), false},
    [BALANCE_REFUSED] = {"refused", SM_NEXT(BALANCE_COOL) | SM_NEXT(BALANCE_SAMPLING), false},
    [BALANCE_DECIDED] = {"decided", SM_NEXT(BALANCE_COOL), false},
};

const char *balance_phase_name(enum balance_phase phase)
{
    return phase < BALANCE_PHASE_MAX ? phases[phase].name : "unknown";
}

/* ---- lists and states ---- */

void balance_changes_reset(struct balance_changes *changes)
{
    changes->count = 0;
}

void balance_changes_free(struct balance_changes *changes)
{
    free(changes->items);
    *changes = (struct balance_changes){0};
}

struct balance_change *balance_changes_add(struct balance_changes *changes)
{
    if (changes->count == changes->capacity) {
        changes->capacity = changes->capacity > 0 ? 2 * changes->capacity : 8;
        changes->items = mem_resize(changes->items, changes->capacity, sizeof *changes->items);
    }
    struct balance_change *change = &changes->items[changes->count++];
    memset(change, 0, sizeof *change);
    return change;
}

struct balance_state *balance_state_new(void)
{
    return mem_zalloc(sizeof(struct balance_state));
}

void balance_state_free(struct balance_state *state)
{
    if (state == NULL)
        return;
    free(state->items);
    free(state);
}

/* `likely`: states stand in the order of the shards, until one of them goes. */
static struct shard_notes *notes_find(const struct balance_state *state, const char *name, size_t likely)
{
    if (likely < state->count && strcmp(state->items[likely].show.name, name) == 0)
        return &state->items[likely];
    for (size_t i = 0; i < state->count; i++)
        if (strcmp(state->items[i].show.name, name) == 0)
            return &state->items[i];
    return NULL;
}

struct shard_notes *balance_notes(const struct round *round, size_t shard)
{
    return notes_find(round->state, round->facts->shards[shard].name, shard);
}

const struct balance_shard_state *balance_state_find(const struct balance_state *state, const char *shard)
{
    const struct shard_notes *found = notes_find(state, shard, 0);
    return found != NULL ? &found->show : NULL;
}

const struct balance_refusal *balance_state_merge_refusal(const struct balance_state *state)
{
    return &state->merge_refusal;
}

bool balance_wants_stream(const struct balance_state *state, const char *shard, size_t place)
{
    const struct shard_notes *found = notes_find(state, shard, place);
    return found != NULL && found->show.phase == BALANCE_SAMPLING && !found->rows_only;
}

bool balance_wants_rows(const struct balance_state *state, const char *shard, size_t place)
{
    const struct shard_notes *found = notes_find(state, shard, place);
    return found != NULL && found->show.phase == BALANCE_SAMPLING && found->wants_rows;
}

/* States of shards that came are made, those of shards that went are dropped. */
static void states_sync(const struct balance_facts *facts, struct balance_state *state)
{
    for (size_t i = 0; i < state->count; i++)
        state->items[i].present = false;
    for (size_t i = 0; i < facts->shard_count; i++) {
        struct shard_notes *s = notes_find(state, facts->shards[i].name, i);
        if (s == NULL) {
            state->items = mem_resize(state->items, state->count + 1, sizeof *state->items);
            s = &state->items[state->count++];
            memset(s, 0, sizeof *s);
            snprintf(s->show.name, sizeof s->show.name, "%s", facts->shards[i].name);
            s->show.decision.kind = BALANCE_KIND_MAX;
            sm_init(&s->sm, phases, BALANCE_PHASE_MAX, BALANCE_COOL, NULL, NULL);
        }
        s->present = true;
    }
    size_t kept = 0;
    for (size_t i = 0; i < state->count; i++)
        if (state->items[i].present)
            state->items[kept++] = state->items[i];
    state->count = kept;
}

/* ---- questions about a shard ---- */

bool balance_elapsed(const struct balance_facts *facts, uint64_t since_ns, uint64_t span_ns)
{
    return facts->now_ns >= since_ns && facts->now_ns - since_ns >= span_ns;
}

bool balance_busy(const struct round *round, size_t shard)
{
    const struct shard_notes *s = balance_notes(round, shard);
    bool reserved = s->reserved_ns > 0 && !balance_elapsed(round->facts, s->reserved_ns, BALANCE_START_NS);
    return round->facts->shards[shard].operation != NULL || s->show.phase == BALANCE_DECIDED || reserved;
}

bool balance_cooling(const struct round *round, size_t shard)
{
    uint64_t end = round->facts->shards[shard].last_move_ns;
    return end > 0 && !balance_elapsed(round->facts, end, round->facts->policy->cooldown_ns);
}

/* ---- words ---- */

void balance_format_time(uint64_t ns, char out[BALANCE_TIME_SIZE])
{
    uint64_t s = (ns + ENV_NS_PER_S / 2) / ENV_NS_PER_S;
    if (s < 120)
        snprintf(out, BALANCE_TIME_SIZE, "%" PRIu64 " s", s);
    else if (s < 7200 && s % 3600 != 0)
        snprintf(out, BALANCE_TIME_SIZE, "%" PRIu64 " min", (s + 30) / 60);
    else
        snprintf(out, BALANCE_TIME_SIZE, "%.3g h", (double)s / 3600);
}

static void format_bytes(double value, const char *per, char out[BALANCE_LOAD_SIZE])
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    size_t i = 0;
    while (value >= 1024 && i + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        i++;
    }
    snprintf(out, BALANCE_LOAD_SIZE, "%.*f %s%s", i == 0 || value >= 100 ? 0 : 1, value, units[i], per);
}

void balance_format_load(enum load_metric metric, double value, char out[BALANCE_LOAD_SIZE])
{
    if (isnan(value))
        snprintf(out, BALANCE_LOAD_SIZE, "an unknown load");
    else if (metric == LOAD_QUERY_RATE)
        snprintf(out, BALANCE_LOAD_SIZE, "%.0f tx/s", value);
    else if (metric == LOAD_CPU)
        snprintf(out, BALANCE_LOAD_SIZE, "%.2f cores", value);
    else
        format_bytes(value, metric == LOAD_WAL_RATE ? "/s" : "", out);
}

void balance_set_load(struct turn *t, const char *key, double value)
{
    char text[BALANCE_LOAD_SIZE];
    balance_format_load(t->round->facts->policy->objective, value, text);
    words_set(&t->words, key, "%s", text);
}

void balance_set_share(struct turn *t, const char *key, double share)
{
    words_set(&t->words, key, "%.0f %%", share * 100);
}

static void words_common(struct turn *t)
{
    const struct balance_facts *facts = t->round->facts;
    char time[BALANCE_TIME_SIZE];
    balance_format_time(t->heat.row * heat_period(facts), time);
    words_set(&t->words, "shard", "%s", t->shard->name);
    words_set(&t->words, "database", "%s", facts->database);
    words_set(&t->words, "time", "%s", time);
    words_set(&t->words, "compare", "%s", "");
    if (t->heat.compared && t->heat.others > 0)
        words_set(&t->words, "compare", " and %.1f x the mean of the other shards",
                  t->heat.load / t->heat.others);
    balance_set_load(t, "load", t->heat.load);
    balance_set_load(t, "threshold", facts->policy->threshold);
}

/* ---- changes ---- */

void balance_phase_set(struct shard_notes *state, enum balance_phase phase)
{
    if (phase != state->show.phase)
        sm_move(&state->sm, (int)phase);
    state->show.phase = phase;
    if (phase != BALANCE_SAMPLING)
        state->wants_rows = state->rows_only = false;
}

struct balance_change *balance_change_make(struct turn *t, enum balance_kind kind, int rule, bool act)
{
    struct balance_change *change = balance_changes_add(t->round->changes);
    change->kind = kind;
    change->rule = rule;
    change->act = act;
    change->load = t->heat.load;
    change->kept = change->moved = (double)NAN;
    snprintf(change->shard, sizeof change->shard, "%s", t->shard->name);
    balance_rule_render(rule, &t->words, change->sentence);
    return change;
}

void balance_refuse(struct turn *t, int rule)
{
    struct balance_refusal *refusal = &t->state->show.refusal;
    uint64_t now = t->round->facts->now_ns;
    bool same = refusal->rule == rule;
    bool recent = same && (refusal->active || now - refusal->last_ns < BALANCE_SILENCE_NS);
    refusal->active = true;
    refusal->last_ns = now;
    if (recent)
        return;
    struct balance_change *change = balance_change_make(t, BALANCE_REFUSE, rule, false);
    refusal->rule = rule;
    refusal->since_ns = now;
    memcpy(refusal->sentence, change->sentence, sizeof refusal->sentence);
}

/* ---- the round ---- */

static void note_heat(struct turn *t)
{
    struct balance_shard_state *show = &t->state->show;
    show->load = t->heat.load;
    if (t->heat.row == 0)
        show->hot_since_ns = 0;
    else if (show->hot_since_ns == 0 || t->heat.row < show->row)
        show->hot_since_ns = t->round->facts->now_ns;
    t->round->hot = t->round->hot || t->heat.row > 0;
}

void balance_decide(const struct balance_facts *facts, struct balance_state *state,
                    struct balance_changes *changes)
{
    struct round round = {.facts = facts, .state = state, .changes = changes};
    states_sync(facts, state);
    struct heat *heats = heat_measure(facts);
    for (size_t i = 0; i < facts->shard_count; i++) {
        struct turn t = {.round = &round, .shard = &facts->shards[i], .index = i};
        t.state = balance_notes(&round, i);
        t.heat = heats[i];
        note_heat(&t);
        words_common(&t);
        if (t.shard->ranges->count > 0)
            balance_hot_step(&t);
        t.state->show.row = t.heat.row;
    }
    free(heats);
    balance_merge_step(&round);
}
