#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "http/http_client.h"

struct sse_parser {
    struct buf line;
    struct buf data;
    struct buf event;
    struct buf id;
    size_t event_limit;
    size_t bom_matched; /* of the byte order mark that may start the stream; 3 = past it */
    bool after_cr;      /* a LF now belongs to the line end before */
    bool failed;
};

struct sse_parser *sse_parser_new(size_t event_limit)
{
    struct sse_parser *p = mem_zalloc(sizeof *p);
    p->event_limit = event_limit;
    p->line.limit = event_limit;
    p->data.limit = event_limit;
    p->event.limit = event_limit;
    p->id.limit = event_limit;
    return p;
}

void sse_parser_free(struct sse_parser *p)
{
    if (p != NULL) {
        buf_free(&p->line);
        buf_free(&p->data);
        buf_free(&p->event);
        buf_free(&p->id);
        free(p);
    }
}

static void event_dispatch(struct sse_parser *p, void (*cb)(const struct sse_event *event, void *data),
                           void *data)
{
    if (p->data.length > 0) {
        p->data.data[--p->data.length] = '\0'; /* the last line's end */
        const struct sse_event event = {
            .event = p->event.length > 0 ? buf_text(&p->event) : "message",
            .data = buf_text(&p->data),
            .id = buf_text(&p->id),
        };
        cb(&event, data);
    }
    buf_reset(&p->data);
    buf_reset(&p->event);
}

static bool field_is(const struct buf *line, size_t name_length, const char *name)
{
    return name_length == strlen(name) && memcmp(line->data, name, name_length) == 0;
}

static bool line_take(struct sse_parser *p)
{
    const char *colon = memchr(p->line.data, ':', p->line.length);
    size_t name = colon != NULL ? (size_t)(colon - p->line.data) : p->line.length;
    size_t start = colon != NULL ? name + 1 : name;
    if (start < p->line.length && p->line.data[start] == ' ') {
        start++;
    }
    const char *value = p->line.data + start;
    size_t length = p->line.length - start;
    if (field_is(&p->line, name, "data")) {
        return buf_add(&p->data, value, length) && buf_addc(&p->data, '\n');
    }
    if (field_is(&p->line, name, "event")) {
        buf_reset(&p->event);
        return buf_add(&p->event, value, length);
    }
    if (field_is(&p->line, name, "id") && memchr(value, '\0', length) == NULL) {
        buf_reset(&p->id);
        return buf_add(&p->id, value, length);
    }
    return true; /* comments, retry and unknown fields */
}

static bool line_end(struct sse_parser *p, void (*cb)(const struct sse_event *event, void *data), void *data)
{
    bool ok = true;
    if (p->line.length == 0) {
        event_dispatch(p, cb, data);
    } else {
        ok = line_take(p);
    }
    buf_reset(&p->line);
    return ok;
}

/* The byte order mark may come in pieces; what turned out to be something else is part of the first line. */
static bool bom_skip(struct sse_parser *p, char c)
{
    static const char bom[] = "\xef\xbb\xbf";
    if (p->bom_matched >= 3) {
        return false;
    }
    if (c == bom[p->bom_matched]) {
        p->bom_matched++;
        return true;
    }
    bool fits = buf_add(&p->line, bom, p->bom_matched);
    p->failed = p->failed || !fits;
    p->bom_matched = 3;
    return false;
}

static bool byte_take(struct sse_parser *p, char c, void (*cb)(const struct sse_event *event, void *data),
                      void *data)
{
    bool lf_of_crlf = p->after_cr && c == '\n';
    p->after_cr = c == '\r';
    if (lf_of_crlf || bom_skip(p, c)) {
        return true;
    }
    if (c == '\r' || c == '\n') {
        return line_end(p, cb, data);
    }
    return !p->failed && buf_addc(&p->line, c);
}

int sse_parser_feed(struct sse_parser *p, const char *bytes, size_t length,
                    void (*cb)(const struct sse_event *event, void *data), void *data, struct err *err)
{
    for (size_t i = 0; i < length && !p->failed; i++) {
        /* whole runs of ordinary bytes at once */
        size_t run = 0;
        while (p->bom_matched >= 3 && i + run < length && bytes[i + run] != '\r' && bytes[i + run] != '\n') {
            run++;
        }
        if (run > 0) {
            p->after_cr = false;
            p->failed = !buf_add(&p->line, bytes + i, run);
            i += run - 1;
        } else {
            p->failed = !byte_take(p, bytes[i], cb, data) || p->failed;
        }
    }
    return p->failed ? err_set(err, ERRC_LIMIT, "server-sent event larger than %zu bytes", p->event_limit)
                     : 0;
}
