/*
 * The messages of pgoutput, protocol version 1. Every read is checked against the end of the message.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pg/pg_stream.h"

#define RELATIONS_MAX 65536
#define TRUNCATE_MAX  65536

struct pgoutput {
    struct pgoutput_relation **relations; /* sorted by oid */
    int count;
    int capacity;
    struct pgoutput_value *values[2]; /* for the old and the new tuple */
    int value_capacity[2];
};

/* A reader that remembers whether it ever ran past the end; then it gives zeros. */
struct reader {
    const unsigned char *next;
    const unsigned char *end;
    bool bad;
};

static const unsigned char *take(struct reader *r, size_t n)
{
    if (r->bad || (size_t)(r->end - r->next) < n) {
        r->bad = true;
        return NULL;
    }
    const unsigned char *p = r->next;
    r->next += n;
    return p;
}

static uint64_t take_number(struct reader *r, size_t bytes)
{
    const unsigned char *p = take(r, bytes);
    uint64_t value = 0;
    for (size_t i = 0; p != NULL && i < bytes; i++)
        value = value << 8 | p[i];
    return value;
}

static uint32_t take32(struct reader *r)
{
    return (uint32_t)take_number(r, 4);
}

static char take_char(struct reader *r)
{
    return (char)take_number(r, 1);
}

/* A NUL-terminated text; NULL if it has no end. */
static const char *take_text(struct reader *r)
{
    const unsigned char *p = r->next;
    const unsigned char *nul = r->bad || p == r->end ? NULL : memchr(p, 0, (size_t)(r->end - p));
    if (nul == NULL) {
        r->bad = true;
        return NULL;
    }
    r->next = nul + 1;
    return (const char *)p;
}

static void take_name(struct reader *r, char out[64])
{
    const char *text = take_text(r);
    size_t length = text != NULL ? strlen(text) : 0;
    if (length >= 64)
        r->bad = true;
    else if (text != NULL)
        memcpy(out, text, length + 1);
}

/* ---- relations ---- */

static int relation_slot(const struct pgoutput *d, uint32_t oid, bool *found)
{
    int low = 0, high = d->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (d->relations[middle]->oid < oid)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < d->count && d->relations[low]->oid == oid;
    return low;
}

static void relation_free(struct pgoutput_relation *relation)
{
    if (relation != NULL)
        free(relation->columns);
    free(relation);
}

static bool relation_store(struct pgoutput *d, struct pgoutput_relation *relation)
{
    bool found;
    int slot = relation_slot(d, relation->oid, &found);
    if (found) {
        relation_free(d->relations[slot]);
        d->relations[slot] = relation;
        return true;
    }
    if (d->count == RELATIONS_MAX)
        return false;
    if (d->count == d->capacity) {
        d->capacity = d->capacity == 0 ? 16 : d->capacity * 2;
        d->relations = mem_resize((void *)d->relations, (size_t)d->capacity, sizeof(void *));
    }
    memmove((void *)&d->relations[slot + 1], (const void *)&d->relations[slot],
            (size_t)(d->count - slot) * sizeof(void *));
    d->relations[slot] = relation;
    d->count++;
    return true;
}

static struct pgoutput_relation *take_relation(struct reader *r)
{
    struct pgoutput_relation *relation = mem_zalloc(sizeof *relation);
    relation->oid = take32(r);
    take_name(r, relation->schema);
    take_name(r, relation->name);
    relation->identity = take_char(r);
    int count = (int)take_number(r, 2);
    /* a column has at least 10 bytes: a lying count costs no memory */
    if (r->bad || count > PGOUTPUT_COLUMNS_MAX || (size_t)(r->end - r->next) < (size_t)count * 10) {
        r->bad = true;
        return relation;
    }
    relation->column_count = count;
    relation->columns = count > 0 ? mem_array((size_t)count, sizeof *relation->columns) : NULL;
    for (int i = 0; i < count && !r->bad; i++) {
        relation->columns[i].key = (take_number(r, 1) & 1) != 0;
        take_name(r, relation->columns[i].name);
        relation->columns[i].type_oid = take32(r);
        take32(r); /* type modifier */
    }
    return relation;
}

static int decode_relation(struct pgoutput *d, struct reader *r, struct pgoutput_message *m, struct err *err)
{
    struct pgoutput_relation *relation = take_relation(r);
    if (r->bad || r->next != r->end) {
        r->bad = true;
        relation_free(relation);
        return 0;
    }
    if (!relation_store(d, relation)) {
        relation_free(relation);
        return err_set(err, ERRC_LIMIT, "pgoutput: more than %d relations", RELATIONS_MAX);
    }
    m->relation = relation;
    return 0;
}

static void find_relation(const struct pgoutput *d, struct reader *r, struct pgoutput_message *m)
{
    bool found;
    int slot = relation_slot(d, take32(r), &found);
    if (found)
        m->relation = d->relations[slot];
    else
        r->bad = true;
}

/* ---- tuples ---- */

static void take_value(struct reader *r, struct pgoutput_value *value)
{
    *value = (struct pgoutput_value){.kind = take_char(r)};
    if (value->kind == 't' || value->kind == 'b') {
        value->length = take32(r);
        value->data = (const char *)take(r, value->length);
    } else if (value->kind != 'n' && value->kind != 'u') {
        r->bad = true;
    }
}

static void take_tuple(struct pgoutput *d, int which, struct reader *r, const struct pgoutput_message *m,
                       struct pgoutput_tuple *tuple)
{
    int count = (int)take_number(r, 2);
    if (r->bad || m->relation == NULL || count != m->relation->column_count) {
        r->bad = true;
        return;
    }
    if (count > d->value_capacity[which]) {
        d->values[which] = mem_resize(d->values[which], (size_t)count, sizeof *d->values[which]);
        d->value_capacity[which] = count;
    }
    for (int i = 0; i < count && !r->bad; i++)
        take_value(r, &d->values[which][i]);
    tuple->count = count;
    tuple->values = d->values[which];
}

/* One tuple behind its letter; `letters` are those allowed here. */
static char take_tagged(struct pgoutput *d, struct reader *r, struct pgoutput_message *m, const char *letters)
{
    char letter = take_char(r);
    if (letter == '\0' || strchr(letters, letter) == NULL) {
        r->bad = true;
        return '\0';
    }
    if (letter == 'N')
        take_tuple(d, 1, r, m, &m->new_tuple);
    else
        take_tuple(d, 0, r, m, &m->old_tuple);
    return letter;
}

/* ---- messages ---- */

static void decode_row(struct pgoutput *d, struct reader *r, struct pgoutput_message *m)
{
    find_relation(d, r, m);
    if (m->kind == PGOUTPUT_INSERT) {
        take_tagged(d, r, m, "N");
    } else if (m->kind == PGOUTPUT_DELETE) {
        take_tagged(d, r, m, "KO");
    } else if (take_tagged(d, r, m, "KON") != 'N') {
        take_tagged(d, r, m, "N");
    }
}

static void decode_begin(struct reader *r, struct pgoutput_message *m)
{
    m->lsn = take_number(r, 8);
    take_number(r, 8); /* time */
    m->xid = take32(r);
}

static void decode_commit(struct reader *r, struct pgoutput_message *m)
{
    take_number(r, 1); /* flags */
    m->lsn = take_number(r, 8);
    m->end_lsn = take_number(r, 8);
    take_number(r, 8);
}

static void decode_other(struct reader *r, struct pgoutput_message *m)
{
    if (m->kind == PGOUTPUT_ORIGIN) {
        m->lsn = take_number(r, 8);
        take_text(r);
    } else if (m->kind == PGOUTPUT_TYPE) {
        take32(r);
        take_text(r);
        take_text(r);
    } else if (m->kind == PGOUTPUT_TRUNCATE) {
        uint32_t count = take32(r);
        take_number(r, 1);
        if (count > TRUNCATE_MAX)
            r->bad = true;
        take(r, (size_t)count * 4);
    } else {
        take_number(r, 1);
        m->lsn = take_number(r, 8);
        take_text(r);
        take(r, take32(r));
    }
}

static bool kind_of(char letter, enum pgoutput_kind *ret)
{
    static const char letters[] = "BCORYIUDTM"; /* in the order of the enum */
    const char *p = letter != '\0' ? strchr(letters, letter) : NULL;
    if (p != NULL)
        *ret = (enum pgoutput_kind)(p - letters);
    return p != NULL;
}

int pgoutput_decode(struct pgoutput *decoder, const void *bytes, size_t length, struct pgoutput_message *ret,
                    struct err *err)
{
    struct reader r = {.next = bytes, .end = (const unsigned char *)bytes + length};
    struct pgoutput_message m = {0};
    char letter = take_char(&r);
    int rc = 0;
    if (r.bad || !kind_of(letter, &m.kind))
        return err_set(err, ERRC_PROTOCOL, "pgoutput: unknown message 0x%02x", (unsigned char)letter);
    if (m.kind == PGOUTPUT_RELATION)
        rc = decode_relation(decoder, &r, &m, err);
    else if (m.kind == PGOUTPUT_INSERT || m.kind == PGOUTPUT_UPDATE || m.kind == PGOUTPUT_DELETE)
        decode_row(decoder, &r, &m);
    else if (m.kind == PGOUTPUT_BEGIN)
        decode_begin(&r, &m);
    else if (m.kind == PGOUTPUT_COMMIT)
        decode_commit(&r, &m);
    else
        decode_other(&r, &m);
    if (rc != 0)
        return rc;
    if (r.bad || r.next != r.end)
        return err_set(err, ERRC_PROTOCOL, "pgoutput: malformed '%c' message of %zu bytes", letter, length);
    *ret = m;
    return 0;
}

struct pgoutput *pgoutput_new(void)
{
    return mem_zalloc(sizeof(struct pgoutput));
}

void pgoutput_free(struct pgoutput *decoder)
{
    if (decoder == NULL)
        return;
    for (int i = 0; i < decoder->count; i++)
        relation_free(decoder->relations[i]);
    free((void *)decoder->relations);
    free(decoder->values[0]);
    free(decoder->values[1]);
    free(decoder);
}
