#include "operation/post_data.h"

#include <string.h>

#define HEAD "-- Name: "
#define TAIL "-- PostgreSQL database dump complete"

static bool starts(const char *text, const char *end, const char *with)
{
    size_t length = strlen(with);
    return (size_t)(end - text) >= length && memcmp(text, with, length) == 0;
}

/* Behind the line breaks, blanks and comments before the first statement. */
static const char *statement_of(const char *text, const char *end)
{
    while (text < end) {
        if (*text == '\n' || *text == ' ')
            text++;
        else if (starts(text, end, "--")) {
            const char *line = memchr(text, '\n', (size_t)(end - text));
            text = line != NULL ? line : end;
        } else
            break;
    }
    return text;
}

/* Behind an identifier, quoted or not; NULL = there is none. */
static const char *name_end(const char *text, const char *end)
{
    const char *p = text;
    if (p < end && *p == '"') {
        for (p++; p < end; p++)
            if (*p == '"' && (p + 1 == end || p[1] != '"'))
                return p + 1;
            else if (*p == '"')
                p++;
        return NULL;
    }
    while (p < end && strchr(" .\n;(", *p) == NULL)
        p++;
    return p > text ? p : NULL;
}

/* schema.table at `text`; NULL = it is not that, or too long. */
static const char *take_relation(struct post_part *part, const char *text, const char *end)
{
    const char *p = name_end(text, end);
    if (p == NULL || p == end || *p != '.')
        return NULL;
    p = name_end(p + 1, end);
    if (p == NULL || (size_t)(p - text) >= sizeof part->relation)
        return NULL;
    memcpy(part->relation, text, (size_t)(p - text));
    part->relation[p - text] = '\0';
    return p;
}

static const char *skip(const char *text, const char *end, const char *what)
{
    return text != NULL && starts(text, end, what) ? text + strlen(what) : NULL;
}

static bool contains(const char *text, const char *end, const char *what)
{
    return memmem(text, (size_t)(end - text), what, strlen(what)) != NULL;
}

/* CREATE [UNIQUE] INDEX name ON schema.table USING ...: ON ONLY is that of a partitioned table. */
static bool take_index(struct post_part *part, const char *sql, const char *end)
{
    const char *p = skip(sql, end, "CREATE INDEX ");
    if (p == NULL)
        p = skip(sql, end, "CREATE UNIQUE INDEX ");
    p = p != NULL ? skip(name_end(p, end), end, " ON ") : NULL;
    p = p != NULL ? take_relation(part, p, end) : NULL;
    part->alone = contains(sql, end, "\nALTER TABLE "); /* REPLICA IDENTITY, CLUSTER ON */
    return skip(p, end, " USING ") != NULL;
}

/* ALTER TABLE ONLY schema.table ADD CONSTRAINT name ... */
static bool take_constraint(struct post_part *part, const char *sql, const char *end)
{
    const char *p = skip(sql, end, "ALTER TABLE ONLY ");
    p = p != NULL ? take_relation(part, p, end) : NULL;
    part->alone = true;
    return skip(p, end, "\n    ADD CONSTRAINT ") != NULL;
}

static void judge(struct post_part *part)
{
    const char *end = part->text + part->length;
    const char *line = memchr(part->text, '\n', part->length);
    const char *sql = statement_of(part->text, end);
    if (!starts(part->text, end, HEAD) || line == NULL)
        return;
    bool taken = (contains(part->text, line, "; Type: INDEX;") && take_index(part, sql, end)) ||
                 (contains(part->text, line, "; Type: CONSTRAINT;") && take_constraint(part, sql, end));
    if (!taken) {
        part->relation[0] = '\0';
        part->alone = false;
    }
}

void post_data_cut(const char *dump, void (*part)(const struct post_part *part, void *data), void *data)
{
    const char *begin = dump, *line = dump;
    while (*begin != '\0') {
        const char *end = strchr(line, '\n');
        line = end != NULL ? end + 1 : line + strlen(line);
        if (*line != '\0' && strncmp(line, HEAD, strlen(HEAD)) != 0 && strncmp(line, TAIL, strlen(TAIL)) != 0)
            continue;
        struct post_part one = {.text = begin, .length = (size_t)(line - begin)};
        judge(&one);
        part(&one, data);
        begin = line;
    }
}
