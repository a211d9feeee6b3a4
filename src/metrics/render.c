#include "metrics/render.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define LABELS_MAX     8
#define VALUE_MAX      64 /* bytes of a number */
#define DYNAMIC_PREFIX "pg_settings_"

/* ---- samples ---- */

/*
 * A family's samples are records in `values`: by how many label sets further the sample's is than the one of
 * the record before (the first: than the first set), as a number with seven bits a byte, the lowest first;
 * the length of the value, a byte; the value as it is printed. The first label set is the member's, which
 * stand before those of each other set.
 */

struct builder {
    struct buf labels; /* as in samples.bytes */
    uint32_t *ends;
    size_t sets, sets_room;
    struct buf values;
    unsigned last_set; /* of the family's last record */
    uint32_t *lengths;
    unsigned families, families_room;
    size_t before; /* length of the texts of all families that are complete */
    size_t length; /* of the one that is being collected */
};

/* The set is what was added to `labels` since the last call. */
static void builder_end_set(struct builder *b)
{
    if (b->sets == b->sets_room) {
        b->sets_room = b->sets_room * 2 + 16;
        b->ends = mem_resize(b->ends, b->sets_room, sizeof *b->ends);
    }
    b->ends[b->sets++] = (uint32_t)b->labels.length;
}

static void builder_begin_samples(struct builder *b, const char *member_labels)
{
    *b = (struct builder){.labels.limit = RENDER_TEXT_MAX};
    buf_add_text(&b->labels, member_labels);
    builder_end_set(b);
}

static void builder_end_family(struct builder *b)
{
    if (b->families == b->families_room) {
        b->families_room = b->families_room * 2 + 32;
        b->lengths = mem_resize(b->lengths, b->families_room, sizeof *b->lengths);
    }
    b->lengths[b->families++] = (uint32_t)b->length;
    b->before += b->length;
    b->length = 0;
    b->last_set = 0;
}

/* What stands between a name and a value. */
static size_t labels_length(const uint32_t *ends, size_t set)
{
    size_t member = ends[0], own = set > 0 ? ends[set] - ends[set - 1] : 0;
    return member + own > 0 ? member + own + (member > 0 && own > 0) + 2 : 0;
}

static void add_number(struct buf *out, unsigned number)
{
    for (; number >= 128; number >>= 7)
        buf_addc(out, (char)(number | 128));
    buf_addc(out, (char)number);
}

/* False, and nothing added: the value is none, or there is no room. */
static bool builder_add(struct builder *b, size_t name_length, unsigned set, const char *value)
{
    size_t start = b->values.length, line = name_length + labels_length(b->ends, set) + 2;
    if (RENDER_TEXT_MAX - b->before - b->length < line + VALUE_MAX)
        return false;
    add_number(&b->values, set - b->last_set);
    size_t at = b->values.length;
    buf_addc(&b->values, 0);
    if (!metric_add_value(&b->values, value)) {
        b->values.length = start;
        return false;
    }
    size_t length = b->values.length - at - 1;
    b->values.data[at] = (char)length;
    b->last_set = set;
    b->length += line + length;
    return true;
}

/* One block: the header, the numbers, the texts. */
static struct samples *builder_end(struct builder *b, const struct query *query,
                                   const struct dynamic_families *dynamic)
{
    size_t numbers = b->families + b->sets, texts = b->labels.length + b->values.length;
    struct samples *s = mem_alloc(sizeof *s + texts + sizeof(uint32_t) + numbers * sizeof(uint32_t));
    size_t numbers_at = (texts + sizeof(uint32_t) - 1) / sizeof(uint32_t) * sizeof(uint32_t);
    *s = (struct samples){.users = 1, .families = b->families, .query = query, .dynamic = dynamic};
    memcpy(s->bytes, buf_text(&b->labels), b->labels.length);
    s->values = s->bytes + b->labels.length;
    memcpy(s->bytes + b->labels.length, buf_text(&b->values), b->values.length);
    s->ends = (uint32_t *)(void *)(s->bytes + numbers_at);
    memcpy(s->ends, b->ends, b->sets * sizeof *s->ends);
    s->lengths = s->ends + b->sets;
    if (b->families > 0)
        memcpy(s->lengths, b->lengths, b->families * sizeof *s->lengths);
    buf_free(&b->labels);
    buf_free(&b->values);
    free(b->ends);
    free(b->lengths);
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

/* ---- text ---- */

void samples_reader_init(struct samples_reader *r, const struct samples *s)
{
    *r = (struct samples_reader){.samples = s, .at = s->values};
}

static unsigned take_number(const char **at)
{
    unsigned number = 0, shift = 0;
    unsigned char byte;
    do {
        byte = (unsigned char)*(*at)++;
        number |= (byte & 127u) << shift;
        shift += 7;
    } while (byte >= 128);
    return number;
}

static char *put(char *to, const char *text, size_t length)
{
    memcpy(to, text, length);
    return to + length;
}

static char *put_labels(char *to, const struct samples *s, unsigned set)
{
    size_t member = s->ends[0], start = set > 0 ? s->ends[set - 1] : 0,
           own = set > 0 ? s->ends[set] - start : 0;
    if (member + own == 0)
        return to;
    *to++ = '{';
    to = put(to, s->bytes, member);
    if (member > 0 && own > 0)
        *to++ = ',';
    to = put(to, s->bytes + start, own);
    *to++ = '}';
    return to;
}

uint32_t samples_reader_next(struct samples_reader *r, char *to)
{
    const struct samples *s = r->samples;
    unsigned family = r->family++, set = 0;
    uint32_t length = s->lengths[family];
    if (length == 0)
        return 0;
    const struct metric_span name = metric_span(s->dynamic != NULL ? s->dynamic->families[family].name
                                                                   : s->query->columns[family].family.name);
    for (const char *end = to + length; to < end;) {
        set += take_number(&r->at);
        size_t value = (unsigned char)*r->at++;
        to = put_labels(put(to, name.text, name.length), s, set);
        *to++ = ' ';
        to = put(to, r->at, value);
        *to++ = '\n';
        r->at += value;
    }
    return length;
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

/* The label sets of all rows, for the columns named in `labels`. */
struct label_sets {
    const char *labels; /* what they were made for; compared by pointer */
    unsigned first;     /* number of the first row's */
    bool *left_out;     /* by row: it was there before, or has no room */
    int last;           /* column that was taken, -1 = none */
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

static void label_sets_make(struct label_sets *sets, struct builder *b, const PGresult *result,
                            const char *labels)
{
    struct label_column columns[LABELS_MAX];
    size_t column_count = label_columns(result, labels, columns);
    struct seen seen;
    seen_init(&seen, (size_t)PQntuples(result));
    sets->labels = labels;
    sets->first = (unsigned)b->sets;
    for (int row = 0; row < PQntuples(result); row++) {
        size_t start = b->labels.length;
        for (size_t c = 0; c < column_count; c++) {
            const char *value = columns[c].number >= 0 ? PQgetvalue(result, row, columns[c].number) : NULL;
            if (c > 0)
                buf_addc(&b->labels, ',');
            metric_add_label(&b->labels, columns[c].name, value);
        }
        bool whole = !b->labels.overflowed;
        b->labels.overflowed = false;
        sets->left_out[row] =
            !whole || seen_before(&seen, buf_text(&b->labels) + start, b->labels.length - start);
        if (sets->left_out[row])
            b->labels.length = start;
        builder_end_set(b);
    }
    free(seen.table);
}

static void render_column(struct builder *b, const struct query_column *column, const PGresult *result,
                          struct label_sets *sets, uint64_t *dropped)
{
    size_t name_length = strlen(column->family.name);
    int number = column_number(result, column->column, sets->last);
    for (int row = 0; number >= 0 && row < PQntuples(result); row++) {
        if (PQgetisnull(result, row, number))
            continue;
        if (sets->left_out[row] ||
            !builder_add(b, name_length, sets->first + (unsigned)row, PQgetvalue(result, row, number)))
            (*dropped)++;
    }
    sets->last = number;
}

static struct samples *render_columns(const struct query *query, const PGresult *result,
                                      const char *member_labels, uint64_t *dropped)
{
    struct builder b;
    struct label_sets sets = {.last = -1,
                              .left_out = mem_array((size_t)PQntuples(result) + 1, sizeof *sets.left_out)};
    builder_begin_samples(&b, member_labels);
    for (size_t c = 0; c < query->column_count; c++) {
        const struct query_column *column = &query->columns[c];
        if (sets.labels == NULL || strcmp(sets.labels, column->labels) != 0)
            label_sets_make(&sets, &b, result, column->labels);
        render_column(&b, column, result, &sets, dropped);
        builder_end_family(&b);
    }
    free(sets.left_out);
    return builder_end(&b, query, NULL);
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
        struct setting setting = {"", "", ""};
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
    struct builder b;
    builder_begin_samples(&b, member_labels);
    for (unsigned f = 0; f < dynamic->count; f++) {
        if (values[f] != NULL && !builder_add(&b, strlen(dynamic->families[f].name), 0, values[f]))
            (*dropped)++;
        builder_end_family(&b);
    }
    free((void *)values);
    free(text);
    return builder_end(&b, NULL, dynamic);
}

struct samples *render_result(const struct query *query, const PGresult *result, const char *member_labels,
                              struct dynamic_families *dynamic, uint64_t *dropped)
{
    if (query->dynamic)
        return render_dynamic(result, member_labels, dynamic, dropped);
    return render_columns(query, result, member_labels, dropped);
}
