/* links: http */
/*
 * Requests as the server parses them: the bytes cut in two at a place the input chooses must parse as in one
 * piece; every accepted target must come out sound.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/http_parse.h"
#include "http/http_server.h"
#include "http/http_url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    struct buf text;
    int messages;
    int fault;
};

static void check_target(char *target)
{
    char *path;
    char *query;
    char value[64];
    if (!http_target_split(target, &path, &query))
        return;
    if (strcmp(path, "*") != 0 && path[0] != '/')
        abort();
    if (strstr(path, "/../") != NULL || strstr(path, "//") != NULL || !http_utf8_valid(path, strlen(path)))
        abort();
    if (http_query_get(query, "key", value, sizeof value) && strlen(value) >= sizeof value)
        abort();
}

static bool on_head(struct http_parser *p, void *data)
{
    struct seen *s = data;
    const char *host = http_parser_field(p, "host");
    if (host == NULL || p->field_count > HTTP_FIELD_LIMIT)
        abort();
    if (http_parser_field(p, "content-length") != NULL && http_parser_field(p, "transfer-encoding") != NULL)
        abort();
    buf_printf(&s->text, "%s %s %s\n", http_parser_method(p), http_parser_target(p), host);
    check_target(http_parser_target(p));
    return true;
}

static bool on_body(struct http_parser *p, const char *bytes, size_t length, void *data)
{
    (void)p;
    return buf_add(&((struct seen *)data)->text, bytes, length);
}

static const struct http_parser_hooks hooks = {on_head, on_body};

static bool feed(struct seen *s, struct http_parser *p, const char *data, size_t length)
{
    while (length > 0) {
        size_t used;
        enum http_feed fed = http_parser_feed(p, data, length, &used);
        if (used > length || fed == HTTP_FEED_STOPPED || (fed == HTTP_FEED_MORE && used != length))
            abort();
        if (fed == HTTP_FEED_FAULT) {
            s->fault = p->fault.status;
            if (s->fault < 400 || p->fault.text == NULL)
                abort();
            return false;
        }
        if (fed == HTTP_FEED_DONE) {
            s->messages++;
            http_parser_reset(p);
        }
        data += used;
        length -= used;
    }
    return true;
}

static struct seen parse(const char *data, size_t length, size_t cut)
{
    struct seen s = {0};
    struct http_parser p;
    http_parser_init(&p, true, &hooks, &s);
    if (feed(&s, &p, data, cut))
        feed(&s, &p, data + cut, length - cut);
    http_parser_free(&p);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t length = size - 1;
    size_t cut = data[size - 1] * length / 256;
    const char *text = (const char *)data;
    struct seen whole = parse(text, length, length);
    struct seen parts = parse(text, length, cut);
    if (whole.messages != parts.messages || (whole.fault == 0) != (parts.fault == 0))
        abort();
    if (whole.fault == 0 && (whole.text.length != parts.text.length ||
                             memcmp(buf_text(&whole.text), buf_text(&parts.text), whole.text.length) != 0))
        abort();
    buf_free(&whole.text);
    buf_free(&parts.text);
    return 0;
}
