/*
 * http_scan: strict check of the bytes of a message head, before llhttp sees them (rule H1).
 *
 * llhttp's strict mode still lets some shapes pass that a proxy in front may read differently. This scanner
 * knows only lines: CRLF ends every line, no line starts with a blank, a name is a token directly followed by
 * ':', no control bytes. It also holds the limits on bytes and fields. Pure; works byte by byte.
 */
#ifndef HTTP_HTTP_SCAN_H
#define HTTP_HTTP_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEAD_LIMIT  (32u * 1024u) /* request or status line and headers */
#define HTTP_FIELD_LIMIT 100u          /* header fields */

/* What is wrong with a message: the status to answer with, a stable code, a sentence. */
struct http_fault {
    int status; /* 0 = nothing */
    const char *code;
    const char *text;
};

struct http_scan {
    uint8_t state;
    bool request;
    uint8_t version_at; /* bytes of "HTTP/" matched */
    uint8_t blanks;     /* spaces in the request line */
    uint32_t bytes;     /* of the head so far */
    uint32_t field_count;
};

void http_scan_init(struct http_scan *scan, bool request);

/*
 * Takes the bytes of the head at the start of data and returns how many those are; http_scan_done() tells
 * whether the head ended there. On a fault, which is sticky, *fault is filled and the count is of no use.
 */
size_t http_scan_feed(struct http_scan *scan, const char *data, size_t length, struct http_fault *fault);
bool http_scan_done(const struct http_scan *scan);

/* Whether the byte may stand in a header name or a method. */
bool http_is_token_byte(unsigned char c);

#endif
