/* links: http */
/*
 * Answers as the client parses them, to GET or HEAD as the last byte says, cut in two, with EOF at the end:
 * both ways must agree.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    struct buf text;
    int messages;
    int fault;
};

static bool on_head(struct http_parser *p, void *data)
{
    struct seen *s = data;
    if (http_parser_status(p) < 200)
        abort();
    buf_printf(&s->text, "%d %u\n", http_parser_status(p), (unsigned)p->field_count);
    return true;
}

static bool on_body(struct http_parser *p, const char *bytes, size_t length, void *data)
{
    if (p->head_request)
        abort();
    return buf_add(&((struct seen *)data)->text, bytes, length);
}

static const struct http_parser_hooks hooks = {on_head, on_body};

static struct seen parse(const char *data, size_t length, size_t cut, bool head)
{
    struct seen s = {0};
    struct http_parser p;
    size_t done = 0;
    http_parser_init(&p, false, &hooks, &s);
    p.head_request = head;
    while (done < length && s.fault == 0) {
        size_t used;
        size_t end = done < cut ? cut : length;
        enum http_feed fed = http_parser_feed(&p, data + done, end - done, &used);
        if (used > end - done || fed == HTTP_FEED_STOPPED)
            abort();
        done += used;
        s.fault = fed == HTTP_FEED_FAULT ? p.fault.status : 0;
        if (fed == HTTP_FEED_DONE) {
            s.messages++;
            http_parser_reset(&p);
        }
    }
    if (s.fault == 0 && http_parser_finish(&p) == HTTP_FEED_DONE)
        s.messages++;
    http_parser_free(&p);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t length = size - 1;
    size_t cut = data[size - 1] * length / 256;
    bool head = data[size - 1] % 2 == 1;
    struct seen whole = parse((const char *)data, length, length, head);
    struct seen parts = parse((const char *)data, length, cut, head);
    if (whole.messages != parts.messages || (whole.fault == 0) != (parts.fault == 0))
        abort();
    if (whole.fault == 0 && (whole.text.length != parts.text.length ||
                             memcmp(buf_text(&whole.text), buf_text(&parts.text), whole.text.length) != 0))
        abort();
    buf_free(&whole.text);
    buf_free(&parts.text);
    return 0;
}
