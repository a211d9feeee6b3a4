#include "metrics/render.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define LABELS_MAX     8
#define LINE_EXTRA     72 /* braces, blank, value and line end */
#define DYNAMIC_PREFIX "pg_settings_"

/* ---- samples ---- */

void samples_begin(struct samples_builder *b)
{
    *b = (struct samples_builder){.text.limit = RENDER_TEXT_MAX};
}

void samples_end(struct samples_builder *b)
{
    if (b->families == b->capacity) {
        b->capacity = b->capacity > 0 ? b->capacity * 2 : 32;
        b->offsets = mem_resize(b->offsets, b->capacity, sizeof *b->offsets);
    }
    b->offsets[b->families++] = (uint32_t)b->text.length; /* where it ends */
}

struct samples *samples_take(struct samples_builder *b)
{
    /* one block: the header, the text, the offsets */
    size_t text_at = sizeof(struct samples);
    size_t offsets_at = (text_at + b->text.length + 7) / 8 * 8;
    struct samples *s = mem_alloc(offsets_at + (b->families + 1) * sizeof *s->offsets);
    s->users = 1;
    s->families = b->families;
    s->offsets = (uint32_t *)(void *)((char *)s + offsets_at);
    if (b->text.length > 0)
        memcpy(s->text, b->text.data, b->text.length);
    s->offsets[0] = 0;
    if (b->families > 0)
        memcpy(s->offsets + 1, b->offsets, b->families * sizeof *s->offsets);
    buf_free(&b->text);
    free(b->offsets);
    b->offsets = NULL;
    return s;
}

struct samples *samples_keep(struct samples *s)
{
    s->users++;
    return s;
}

void samples_free(struct samples *s)
{
    if (s != NULL && --s->users == 0)
        free(s);
}

/* ---- families named by servers ---- */

struct dynamic_families {
    struct metric_family *families;
    unsigned count, capacity;
    unsigned *table; /* open addressing: number + 1, 0 = free */
    unsigned table_size;
};

static uint64_t text_hash(const char *text, size_t n)
{
    uint64_t h = 1469598103934665603ull; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)text[i]) * 1099511628211ull;
    return h ^ (h >> 29);
}

struct dynamic_families *dynamic_families_new(void)
{
    struct dynamic_families *d = mem_zalloc(sizeof *d);
    d->table_size = 4096; /* twice RENDER_DYNAMIC_MAX */
    d->table = mem_array(d->table_size, sizeof *d->table);
    return d;
}

void dynamic_families_free(struct dynamic_families *d)
{
    if (d == NULL)
        return;
    for (unsigned i = 0; i < d->count; i++) {
        free((void *)(uintptr_t)d->families[i].name);
        free((void *)(uintptr_t)d->families[i].help);
    }
    free(d->families);
    free(d->table);
    free(d);
}

unsigned dynamic_families_count(const struct dynamic_families *d)
{
    return d->count;
}

const struct metric_family *dynamic_family(const struct dynamic_families *d, unsigned number)
{
    return &d->families[number];
}

/* A line of the answer. */
struct setting {
    const char *name, *unit, *value;
};

static struct metric_family setting_family(const char *name, const struct setting *setting)
{
    bool converted = setting->unit[0] != '\0';
    char *help = mem_printf("Server Parameter: %s%s%s%s", setting->name,
                            converted ? " [Units converted to " : "", setting->unit, converted ? ".]" : "");
    return (struct metric_family){mem_strdup(name), METRIC_GAUGE, help};
}

/* The family's number, made if need be; -1 if there are too many. */
static int dynamic_find(struct dynamic_families *d, const char *name, const struct setting *setting)
{
    unsigned at = (unsigned)(text_hash(name, strlen(name)) % d->table_size);
    while (d->table[at] != 0) {
        unsigned number = d->table[at] - 1;
        if (strcmp(d->families[number].name, name) == 0)
            return (int)number;
        at = (at + 1) % d->table_size;
    }
    if (d->count == RENDER_DYNAMIC_MAX)
        return -1;
    if (d->count == d->capacity) {
        d->capacity = d->capacity > 0 ? d->capacity * 2 : 256;
        d->families = mem_resize(d->families, d->capacity, sizeof *d->families);
    }
    d->families[d->count] = setting_family(name, setting);
    d->table[at] = ++d->count;
    return (int)d->count - 1;
}

/* ---- duplicates ---- */

struct seen {
    uint64_t *table; /* hashes, 0 = free */
    size_t size;
};

static void seen_init(struct seen *seen, size_t rows)
{
    seen->size = 16;
    while (seen->size < rows * 2)
        seen->size *= 2;
    seen->table = mem_array(seen->size, sizeof *seen->table);
}

/* True if the text was there before. Two texts with one 64-bit hash do not happen in practice; if they did,
 * one series would be missing. */
static bool seen_before(struct seen *seen, const char *text, size_t n)
{
    uint64_t h = text_hash(text, n) | 1;
    size_t at = (size_t)(h >> 1) & (seen->size - 1);
    while (seen->table[at] != 0) {
        if (seen->table[at] == h)
            return true;
        at = (at + 1) & (seen->size - 1);
    }
    seen->table[at] = h;
    return false;
}

/* ---- rows with labels ---- */

/* Rendered label sets of all rows, for the columns named in `labels`. */
struct label_sets {
    const char *labels; /* what they were made for; compared by pointer */
    struct buf text;
    size_t *ends;
    bool *duplicate;
    int last; /* column that was rendered, -1 = none */
};

struct label_column {
    char name[64];
    int number;
};

/* Columns are mostly asked for in their order: the one after `last` is tried first. -1 = there is none. */
static int column_number(const PGresult *result, const char *name, int last)
{
    int columns = PQnfields(result);
    for (int i = 1; i <= columns; i++) {
        int number = (last + i) % columns;
        if (strcmp(PQfname(result, number), name) == 0)
            return number;
    }
    return -1;
}

static size_t label_columns(const PGresult *result, const char *labels, struct label_column *columns)
{
    size_t n = 0;
    int last = -1;
    while (*labels != '\0' && n < LABELS_MAX) {
        size_t length = strcspn(labels, ",");
        size_t copied = length < sizeof columns[n].name - 1 ? length : sizeof columns[n].name - 1;
        memcpy(columns[n].name, labels, copied);
        columns[n].name[copied] = '\0';
        last = columns[n].number = column_number(result, columns[n].name, last);
        n++;
        labels += length + (labels[length] == ',');
    }
    return n;
}

static void label_sets_make(struct label_sets *sets, const PGresult *result, const char *labels,
                            const char *member_labels)
{
    struct label_column columns[LABELS_MAX];
    size_t column_count = label_columns(result, labels, columns);
    struct seen seen;
    seen_init(&seen, (size_t)PQntuples(result));
    sets->labels = labels;
    buf_reset(&sets->text);
    for (int row = 0; row < PQntuples(result); row++) {
        size_t start = sets->text.length;
        buf_add_text(&sets->text, member_labels);
        for (size_t c = 0; c < column_count; c++) {
            const char *value = columns[c].number >= 0 ? PQgetvalue(result, row, columns[c].number) : NULL;
            if (sets->text.length > start)
                buf_addc(&sets->text, ',');
            metric_add_label(&sets->text, columns[c].name, value);
        }
        sets->ends[row] = sets->text.length;
        sets->duplicate[row] = seen_before(&seen, sets->text.data + start, sets->text.length - start);
    }
    free(seen.table);
}

static bool add_sample(struct buf *out, struct metric_span name, struct metric_span labels, const char *value)
{
    size_t start = out->length;
    if (out->limit - start < name.length + labels.length + LINE_EXTRA)
        return false;
    metric_add_start(out, name, labels, (struct metric_span){"", 0});
    bool ok = metric_add_value(out, value);
    if (ok && buf_addc(out, '\n') && !out->overflowed)
        return true;
    out->length = start; /* no half line */
    out->overflowed = false;
    return false;
}

static void render_column(struct samples_builder *b, const struct query_column *column,
                          const PGresult *result, struct label_sets *sets, uint64_t *dropped)
{
    const struct metric_span name = metric_span(column->family.name);
    int number = column_number(result, column->column, sets->last);
    for (int row = 0; number >= 0 && row < PQntuples(result); row++) {
        if (PQgetisnull(result, row, number))
            continue;
        size_t start = row > 0 ? sets->ends[row - 1] : 0;
        const struct metric_span labels = {sets->text.data + start, sets->ends[row] - start};
        if (sets->duplicate[row] || !add_sample(&b->text, name, labels, PQgetvalue(result, row, number)))
            (*dropped)++;
    }
    sets->last = number;
}

static struct samples *render_columns(const struct query *query, const PGresult *result,
                                      const char *member_labels, uint64_t *dropped)
{
    size_t rows = (size_t)PQntuples(result);
    struct samples_builder b;
    struct label_sets sets = {.last = -1,
                              .ends = mem_array(rows + 1, sizeof *sets.ends),
                              .duplicate = mem_array(rows + 1, sizeof *sets.duplicate)};
    samples_begin(&b);
    for (size_t c = 0; c < query->column_count; c++) {
        const struct query_column *column = &query->columns[c];
        if (sets.labels == NULL || strcmp(sets.labels, column->labels) != 0)
            label_sets_make(&sets, result, column->labels, member_labels);
        render_column(&b, column, result, &sets, dropped);
        samples_end(&b);
    }
    buf_free(&sets.text);
    free(sets.ends);
    free(sets.duplicate);
    return samples_take(&b);
}

/* ---- lines that are families ---- */

/* Cuts the line in place; *rest is what follows it, NULL after the last. False = it is not three parts. */
static bool setting_parse(char *line, struct setting *ret, char **rest)
{
    *rest = strchr(line, '\n');
    if (*rest != NULL)
        *(*rest)++ = '\0';
    char *unit = strchr(line, '\t');
    char *value = unit != NULL ? strchr(unit + 1, '\t') : NULL;
    if (value == NULL)
        return false;
    *unit++ = *value++ = '\0';
    *ret = (struct setting){line, unit, value};
    return true;
}

/* pg_settings_checkpoint_timeout_seconds */
static const char *setting_name(struct buf *scratch, const struct setting *setting)
{
    buf_reset(scratch);
    buf_add_text(scratch, DYNAMIC_PREFIX);
    for (const char *c = setting->name; *c != '\0'; c++)
        buf_addc(scratch, *c == '.' || *c == '-' ? '_' : *c);
    if (setting->unit[0] != '\0')
        buf_addc(scratch, '_');
    buf_add_text(scratch, setting->unit);
    return buf_text(scratch);
}

/* The values of `text`, which is changed, by the numbers of their families. */
static void settings_place(char *text, const char **values, struct dynamic_families *dynamic,
                           uint64_t *dropped)
{
    struct buf scratch = {0};
    for (char *line = text, *rest; line != NULL; line = rest) {
        struct setting setting;
        int number = -1;
        bool whole = setting_parse(line, &setting, &rest);
        if (!whole && *line == '\0')
            continue;
        const char *name = whole ? setting_name(&scratch, &setting) : "";
        if (metric_name_valid(name))
            number = dynamic_find(dynamic, name, &setting);
        if (number < 0 || values[number] != NULL)
            (*dropped)++;
        else
            values[number] = setting.value;
    }
    buf_free(&scratch);
}

static struct samples *render_dynamic(const PGresult *result, const char *member_labels,
                                      struct dynamic_families *dynamic, uint64_t *dropped)
{
    const char **values = mem_array(RENDER_DYNAMIC_MAX, sizeof *values);
    char *text = mem_strdup(PQntuples(result) > 0 && PQnfields(result) > 0 ? PQgetvalue(result, 0, 0) : "");
    settings_place(text, values, dynamic, dropped);
    const struct metric_span labels = metric_span(member_labels);
    struct samples_builder b;
    samples_begin(&b);
    for (unsigned f = 0; f < dynamic->count; f++) {
        if (values[f] != NULL &&
            !add_sample(&b.text, metric_span(dynamic->families[f].name), labels, values[f]))
            (*dropped)++;
        samples_end(&b);
    }
    free((void *)values);
    free(text);
    return samples_take(&b);
}

struct samples *render_result(const struct query *query, const PGresult *result, const char *member_labels,
                              struct dynamic_families *dynamic, uint64_t *dropped)
{
    if (query->dynamic)
        return render_dynamic(result, member_labels, dynamic, dropped);
    return render_columns(query, result, member_labels, dropped);
}
