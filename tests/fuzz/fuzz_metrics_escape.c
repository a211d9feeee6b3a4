/* links: metrics */
/*
 * Whatever a server sends as a label, a help text, a value or a name, the exposition stays well formed: each
 * sample is one line that a strict reader takes apart again, and valid text comes back as it was.
 * Input: four texts separated by 0xFE: label value, help, number, name.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/metric_text.h"
#include "metrics/render.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(int holds)
{
    if (!holds)
        abort();
}

/* Reads an escaped text up to an unescaped `end`; returns what follows. */
static const char *unescape(const char *text, char end, struct buf *out)
{
    while (*text != end) {
        need(*text != '\0' && *text != '\n');
        if (*text == '\\') {
            text++;
            need(*text == '\\' || *text == 'n' || (end == '"' && *text == '"'));
            buf_addc(out, *text == 'n' ? '\n' : *text);
        } else {
            buf_addc(out, *text);
        }
        text++;
    }
    return text + 1;
}

/* Replaced characters are the only difference allowed. */
static void need_same(const struct buf *read, const char *given)
{
    size_t n = strlen(given);
    if (strstr(buf_text(read), "\xEF\xBF\xBD") == NULL && n <= METRIC_LABEL_MAX - 4)
        need(strcmp(buf_text(read), given) == 0);
}

static void check_label(const char *value)
{
    struct buf out = {0}, read = {0};
    metric_add_label(&out, "l", value);
    need(strncmp(buf_text(&out), "l=\"", 3) == 0);
    need(*unescape(buf_text(&out) + 3, '"', &read) == '\0');
    need_same(&read, value);
    buf_free(&out);
    buf_free(&read);
}

static void check_help(const char *help)
{
    struct buf out = {0}, read = {0};
    const struct metric_family family = {"n", METRIC_GAUGE, help};
    metric_add_head(&out, &family);
    need(strncmp(buf_text(&out), "# HELP n ", 9) == 0);
    const char *rest = unescape(buf_text(&out) + 9, '\n', &read);
    need(strcmp(rest, "# TYPE n gauge\n") == 0);
    need_same(&read, help);
    buf_free(&out);
    buf_free(&read);
}

static void check_number(const char *text)
{
    struct buf out = {0};
    if (metric_add_value(&out, text)) {
        char *end;
        need(out.length > 0 && out.length < 64);
        (void)strtod(buf_text(&out), &end);
        need(*end == '\0' && strpbrk(buf_text(&out), " \t\nxX") == NULL);
    } else {
        need(out.length == 0);
    }
    buf_free(&out);
}

/* A line of pg_settings made of all four; they may make more lines of it. */
static void check_settings(const char *name, const char *unit, const char *value, const char *label)
{
    static const struct query query = {.name = "settings", .dynamic = true};
    char column[] = "lines";
    PGresAttDesc attribute = {.name = column};
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    char *line = mem_printf("%s\t%s\t%s", name, unit, value);
    need(PQsetResultAttrs(result, 1, &attribute) && PQsetvalue(result, 0, 0, line, (int)strlen(line)));
    struct dynamic_families *families = dynamic_families_new();
    struct buf labels = {0};
    uint64_t dropped = 0;
    metric_add_label(&labels, "member", label);
    struct samples *s = render_result(&query, result, buf_text(&labels), families, &dropped);
    struct samples_reader reader;
    samples_reader_init(&reader, s);
    size_t length = 0;
    for (unsigned f = 0; f < s->families; f++) {
        char *text = mem_alloc(s->lengths[f]);
        uint32_t n = samples_reader_next(&reader, text);
        length += n;
        need(n == s->lengths[f]);
        need(n == 0 || (strncmp(text, "pg_settings_", 12) == 0 && memchr(text, '\n', n) == text + n - 1));
        free(text);
    }
    need(length > 0 || dropped > 0 || line[0] == '\n');
    samples_free(s);
    dynamic_families_free(families);
    buf_free(&labels);
    PQclear(result);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *part[4], *text = mem_strndup((const char *)data, size);
    if (size > 16384) {
        free(text);
        return 0;
    }
    char *at = text;
    for (int i = 0; i < 4; i++) {
        char *end = strchr(at, 0xFE);
        part[i] = at;
        if (end != NULL)
            *end = '\0';
        at = end != NULL ? end + 1 : at + strlen(at);
    }
    check_label(part[0]);
    check_help(part[1]);
    check_number(part[2]);
    check_settings(part[3], part[1], part[2], part[0]);
    free(text);
    return 0;
}
