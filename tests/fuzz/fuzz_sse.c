/* links: http */
/* Event streams, in one piece and byte by byte: the same events, and none beyond the limit. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "http/http_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LIMIT 64

static void on_event(const struct sse_event *event, void *data)
{
    if (strlen(event->data) > LIMIT || strlen(event->event) > LIMIT || strlen(event->id) > LIMIT)
        abort();
    buf_printf(data, "%s|%s|%s\n", event->event, event->id, event->data);
}

static int parse(const char *data, size_t size, size_t step, struct buf *out)
{
    struct sse_parser *p = sse_parser_new(LIMIT);
    struct err err = {0};
    int code = 0;
    for (size_t i = 0; i < size && code == 0; i += step) {
        size_t length = size - i < step ? size - i : step;
        code = sse_parser_feed(p, data + i, length, on_event, out, &err);
    }
    sse_parser_free(p);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = {0};
    struct buf bytes = {0};
    int first = parse((const char *)data, size, size + 1, &whole);
    int second = parse((const char *)data, size, 1, &bytes);
    if (first != second || whole.length != bytes.length || strcmp(buf_text(&whole), buf_text(&bytes)) != 0)
        abort();
    buf_free(&whole);
    buf_free(&bytes);
    return 0;
}
