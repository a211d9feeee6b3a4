#include "http/http_parse.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

enum { ITEM_NONE, ITEM_TARGET, ITEM_NAME, ITEM_VALUE };

#define INTERIMS_MAX 16
#define FRAMING_FACTOR                                                                                       \
    16u /* bytes of chunk framing allowed per byte of body: a chunk of one byte needs 5                      \
         */
#define TEXT_LIMIT (3u * HTTP_HEAD_LIMIT)

static int parser_fault(struct http_parser *p, int status, const char *code, const char *text)
{
    if (p->fault.status == 0) {
        p->fault.status = status;
        p->fault.code = code;
        p->fault.text = text;
    }
    return HPE_USER;
}

static int text_add(struct http_parser *p, const char *at, size_t length)
{
    p->text.limit = TEXT_LIMIT;
    if (!buf_add(&p->text, at, length)) {
        return parser_fault(p, 431, "headers_too_large", "the head of the message is too large");
    }
    return 0;
}

/* Ends the text being collected; a value loses its trailing blanks. */
static int item_close(struct http_parser *p)
{
    if (p->item == ITEM_NONE) {
        return 0;
    }
    if (p->item == ITEM_VALUE) {
        size_t start = p->fields[p->field_count - 1].value;
        while (p->text.length > start &&
               (p->text.data[p->text.length - 1] == ' ' || p->text.data[p->text.length - 1] == '\t')) {
            p->text.length--;
        }
    }
    p->item = ITEM_NONE;
    return text_add(p, "", 1);
}

static int on_url(llhttp_t *ll, const char *at, size_t length)
{
    struct http_parser *p = ll->data;
    if (p->item == ITEM_NONE) {
        p->item = ITEM_TARGET;
        p->target = (uint32_t)p->text.length;
    }
    return text_add(p, at, length);
}

static int on_url_complete(llhttp_t *ll)
{
    return item_close(ll->data);
}

static int field_begin(struct http_parser *p)
{
    if (item_close(p) != 0) {
        return HPE_USER;
    }
    if (p->field_count == p->field_capacity) {
        p->field_capacity = p->field_capacity == 0 ? 16 : p->field_capacity * 2;
        p->fields = mem_resize(p->fields, p->field_capacity, sizeof *p->fields);
    }
    p->fields[p->field_count].name = (uint32_t)p->text.length;
    p->fields[p->field_count].value = (uint32_t)p->text.length;
    p->field_count++;
    p->item = ITEM_NAME;
    return 0;
}

static int on_field(llhttp_t *ll, const char *at, size_t length)
{
    struct http_parser *p = ll->data;
    if (p->head_done) {
        return 0; /* a trailer */
    }
    if (p->item != ITEM_NAME && field_begin(p) != 0) {
        return HPE_USER;
    }
    size_t from = p->text.length;
    if (text_add(p, at, length) != 0) {
        return HPE_USER;
    }
    for (size_t i = from; i < p->text.length; i++) {
        char c = p->text.data[i];
        p->text.data[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    return 0;
}

static int on_field_complete(llhttp_t *ll)
{
    struct http_parser *p = ll->data;
    if (p->head_done) {
        return 0;
    }
    if (item_close(p) != 0) {
        return HPE_USER;
    }
    p->fields[p->field_count - 1].value = (uint32_t)p->text.length;
    p->item = ITEM_VALUE;
    return 0;
}

static int on_value(llhttp_t *ll, const char *at, size_t length)
{
    struct http_parser *p = ll->data;
    return p->head_done ? 0 : text_add(p, at, length);
}

static const char *field_name(const struct http_parser *p, uint32_t i)
{
    return p->text.data + p->fields[i].name;
}

static const char *field_value(const struct http_parser *p, uint32_t i)
{
    return p->text.data + p->fields[i].value;
}

static uint32_t field_occurrences(const struct http_parser *p, const char *name)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < p->field_count; i++) {
        count += strcmp(field_name(p, i), name) == 0;
    }
    return count;
}

/* Writes all values of the name of field i, from i on, as one text at the end of `text`. */
static int field_join(struct http_parser *p, uint32_t i)
{
    size_t start = p->text.length;
    for (uint32_t j = i; j < p->field_count; j++) {
        if (strcmp(field_name(p, j), field_name(p, i)) != 0) {
            continue;
        }
        size_t length = strlen(field_value(p, j));
        uint32_t value = p->fields[j].value;
        if (j != i && text_add(p, ", ", 2) != 0) {
            return HPE_USER;
        }
        if (buf_reserve(&p->text, length) == NULL || text_add(p, p->text.data + value, length) != 0) {
            return parser_fault(p, 431, "headers_too_large", "the head of the message is too large");
        }
    }
    p->fields[i].value = (uint32_t)start;
    return text_add(p, "", 1);
}

static int fields_join(struct http_parser *p)
{
    for (uint32_t i = 0; i < p->field_count; i++) {
        bool first = true;
        bool repeated = false;
        for (uint32_t j = 0; j < p->field_count; j++) {
            if (j != i && strcmp(field_name(p, j), field_name(p, i)) == 0) {
                first = first && j > i;
                repeated = true;
            }
        }
        if (repeated && first && field_join(p, i) != 0) {
            return HPE_USER;
        }
    }
    return 0;
}

/* H1: what the head says about the body must have exactly one reading. */
static int head_check_framing(struct http_parser *p)
{
    const char *encoding = http_parser_field(p, "transfer-encoding");
    uint32_t lengths = field_occurrences(p, "content-length");
    if (lengths > 1) {
        return parser_fault(p, 400, "bad_request", "more than one Content-Length");
    }
    if (encoding != NULL && lengths > 0) {
        return parser_fault(p, 400, "bad_request", "both Content-Length and Transfer-Encoding");
    }
    if (encoding != NULL &&
        (strcasecmp(encoding, "chunked") != 0 || field_occurrences(p, "transfer-encoding") > 1)) {
        return parser_fault(p, 400, "bad_request", "the only Transfer-Encoding allowed is chunked");
    }
    if (encoding != NULL && p->ll.http_minor == 0) {
        return parser_fault(p, 400, "bad_request", "Transfer-Encoding in HTTP/1.0");
    }
    return 0;
}

static bool method_known(uint8_t method)
{
    switch (method) {
    case HTTP_GET:
    case HTTP_HEAD:
    case HTTP_POST:
    case HTTP_PUT:
    case HTTP_PATCH:
    case HTTP_DELETE:
    case HTTP_OPTIONS:
        return true;
    default:
        return false;
    }
}

static int head_check(struct http_parser *p)
{
    if (p->ll.http_major != 1 || p->ll.http_minor > 1) {
        return parser_fault(p, 505, "http_version", "only HTTP/1.0 and HTTP/1.1 are spoken here");
    }
    if (head_check_framing(p) != 0) {
        return HPE_USER;
    }
    if (!p->request && p->ll.status_code == 101) {
        return parser_fault(p, 502, "bad_gateway", "the server switched protocols unasked");
    }
    if (!p->request) {
        return p->ll.status_code < 100 ? parser_fault(p, 502, "bad_gateway", "status below 100") : 0;
    }
    if (field_occurrences(p, "host") != 1) {
        return parser_fault(p, 400, "bad_request", "exactly one Host header is required");
    }
    return method_known(p->ll.method) ? 0 : parser_fault(p, 501, "unsupported", "unknown method");
}

static bool parser_is_interim(const struct http_parser *p)
{
    return !p->request && p->ll.status_code >= 100 && p->ll.status_code < 200;
}

static int on_head(llhttp_t *ll)
{
    struct http_parser *p = ll->data;
    if (item_close(p) != 0 || head_check(p) != 0 || fields_join(p) != 0) {
        return HPE_USER;
    }
    p->head_done = true;
    /* An Upgrade we did not ask for, or will not follow, must not end the parsing of this connection. */
    ll->upgrade = 0;
    if (parser_is_interim(p)) {
        return 1;
    }
    if (!p->hooks->head(p, p->data)) {
        p->stopped = true;
        return HPE_USER;
    }
    return !p->request && p->head_request ? 1 : 0;
}

static int on_body(llhttp_t *ll, const char *at, size_t length)
{
    struct http_parser *p = ll->data;
    p->body_bytes += length;
    if (!p->hooks->body(p, at, length, p->data)) {
        p->stopped = true;
        return HPE_USER;
    }
    return 0;
}

static int on_complete(llhttp_t *ll)
{
    struct http_parser *p = ll->data;
    p->complete = true;
    p->keep_alive = llhttp_should_keep_alive(ll) != 0;
    return HPE_PAUSED;
}

static const llhttp_settings_t parser_settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_header_field = on_field,
    .on_header_field_complete = on_field_complete,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* llhttp is started afresh for every message, so that no state of one can leak into the next. */
static void parser_start(struct http_parser *p)
{
    llhttp_init(&p->ll, p->request ? HTTP_REQUEST : HTTP_RESPONSE, &parser_settings);
    p->ll.data = p;
    http_scan_init(&p->scan, p->request);
    buf_reset(&p->text);
    p->field_count = 0;
    p->target = 0;
    p->item = ITEM_NONE;
    p->head_done = false;
    p->complete = false;
    p->stopped = false;
    p->keep_alive = false;
    p->body_bytes = 0;
    p->wire_bytes = 0;
    memset(&p->fault, 0, sizeof p->fault);
}

void http_parser_init(struct http_parser *p, bool request, const struct http_parser_hooks *hooks, void *data)
{
    memset(p, 0, sizeof *p);
    p->request = request;
    p->hooks = hooks;
    p->data = data;
    parser_start(p);
}

void http_parser_reset(struct http_parser *p)
{
    p->interims = 0;
    parser_start(p);
}

void http_parser_free(struct http_parser *p)
{
    buf_free(&p->text);
    free(p->fields);
    p->fields = NULL;
    p->field_count = 0;
    p->field_capacity = 0;
}

/* What a non-zero return of llhttp means; `DONE` only for the pause at the end of a message. */
static enum http_feed parser_outcome(struct http_parser *p, llhttp_errno_t code)
{
    if (p->stopped) {
        return HTTP_FEED_STOPPED;
    }
    if (p->fault.status == 0 && code == HPE_PAUSED && p->complete) {
        return HTTP_FEED_DONE;
    }
    if (code == HPE_INVALID_VERSION || code == HPE_PAUSED_H2_UPGRADE) {
        parser_fault(p, 505, "http_version", "only HTTP/1.0 and HTTP/1.1 are spoken here");
    } else {
        /* llhttp's reasons are constant texts, without bytes of the peer */
        const char *reason = llhttp_get_error_reason(&p->ll);
        parser_fault(p, 400, "bad_request",
                     reason != NULL && reason[0] != '\0' ? reason : "malformed message");
    }
    return HTTP_FEED_FAULT;
}

static enum http_feed parser_execute(struct http_parser *p, const char *data, size_t length, size_t *consumed)
{
    *consumed = length;
    llhttp_errno_t code = llhttp_execute(&p->ll, data, length);
    if (code == HPE_OK) {
        return HTTP_FEED_MORE;
    }
    enum http_feed result = parser_outcome(p, code);
    const char *pos = llhttp_get_error_pos(&p->ll);
    if (result == HTTP_FEED_DONE && pos >= data && pos <= data + length) {
        *consumed = (size_t)(pos - data);
    }
    return result;
}

static enum http_feed parser_feed_head(struct http_parser *p, const char *data, size_t length,
                                       size_t *consumed)
{
    size_t head = http_scan_feed(&p->scan, data, length, &p->fault);
    if (p->fault.status != 0) {
        return HTTP_FEED_FAULT;
    }
    enum http_feed result = parser_execute(p, data, head, consumed);
    *consumed = head;
    bool ended = http_scan_done(&p->scan);
    if (result == HTTP_FEED_MORE && ended != p->head_done) {
        /* two readers that disagree about where the head ends are what smuggling lives on */
        parser_fault(p, 400, "bad_request", "the end of the head is ambiguous");
        return HTTP_FEED_FAULT;
    }
    return result;
}

static enum http_feed parser_feed_body(struct http_parser *p, const char *data, size_t length,
                                       size_t *consumed)
{
    enum http_feed result = parser_execute(p, data, length, consumed);
    p->wire_bytes += *consumed;
    if (result == HTTP_FEED_MORE &&
        p->wire_bytes - p->body_bytes > HTTP_HEAD_LIMIT + FRAMING_FACTOR * p->body_bytes) {
        parser_fault(p, 400, "bad_request", "too much chunk framing for the size of the body");
        return HTTP_FEED_FAULT;
    }
    return result;
}

/* An interim answer ended: forget it and go on with the next message. */
static bool parser_skip_interim(struct http_parser *p)
{
    if (!parser_is_interim(p)) {
        return false;
    }
    if (++p->interims > INTERIMS_MAX) {
        parser_fault(p, 502, "bad_gateway", "too many interim answers");
        return false;
    }
    parser_start(p);
    return true;
}

enum http_feed http_parser_feed(struct http_parser *p, const char *data, size_t length, size_t *ret_consumed)
{
    size_t used = 0;
    enum http_feed result = p->fault.status != 0 ? HTTP_FEED_FAULT : HTTP_FEED_MORE;
    while (result == HTTP_FEED_MORE && used < length) {
        size_t taken = 0;
        result = p->head_done ? parser_feed_body(p, data + used, length - used, &taken)
                              : parser_feed_head(p, data + used, length - used, &taken);
        used += taken;
        if (result == HTTP_FEED_DONE && parser_skip_interim(p)) {
            result = HTTP_FEED_MORE;
        } else if (p->fault.status != 0) {
            result = HTTP_FEED_FAULT;
        }
    }
    *ret_consumed = used;
    return result;
}

enum http_feed http_parser_finish(struct http_parser *p)
{
    if (p->fault.status == 0 && p->head_done && !p->complete) {
        llhttp_errno_t code = llhttp_finish(&p->ll);
        if (p->stopped) {
            return HTTP_FEED_STOPPED;
        }
        if (p->complete && (code == HPE_OK || code == HPE_PAUSED)) {
            p->keep_alive = false;
            return HTTP_FEED_DONE;
        }
    }
    parser_fault(p, 400, "truncated", "the connection ended in the middle of a message");
    return HTTP_FEED_FAULT;
}

int http_parser_status(const struct http_parser *p)
{
    return p->ll.status_code;
}

const char *http_parser_method(const struct http_parser *p)
{
    return llhttp_method_name((llhttp_method_t)p->ll.method);
}

char *http_parser_target(struct http_parser *p)
{
    return p->text.data + p->target;
}

const char *http_parser_field(const struct http_parser *p, const char *name)
{
    for (uint32_t i = 0; i < p->field_count; i++) {
        if (strcmp(field_name(p, i), name) == 0) {
            return field_value(p, i);
        }
    }
    return NULL;
}

uint64_t http_parser_content_length(const struct http_parser *p)
{
    return p->ll.flags & F_CONTENT_LENGTH ? p->ll.content_length : UINT64_MAX;
}

bool http_parser_expects_body(const struct http_parser *p)
{
    return (p->ll.flags & F_CHUNKED) != 0 ||
           ((p->ll.flags & F_CONTENT_LENGTH) != 0 && p->ll.content_length > 0);
}
