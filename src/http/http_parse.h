/*
 * http_parse: HTTP/1.1 messages from bytes, on llhttp, without I/O.
 *
 * Used by the server, the client and the fuzz targets. Feed it bytes in any pieces: `head` is called once the
 * head is complete and found sound, `body` for each piece of the body (chunk framing removed), and the feed
 * returns HTTP_FEED_DONE exactly at the end of one message, leaving what follows to the caller. Interim
 * answers (1xx) are skipped. Limits: HTTP_HEAD_LIMIT, HTTP_FIELD_LIMIT, and framing in proportion to the
 * body; the size of the body is the caller's to limit. Trailer fields are checked by llhttp, counted and
 * dropped.
 *
 * Faults: `status` is what a server should answer; after a fault the connection cannot be used any more.
 */
#ifndef HTTP_HTTP_PARSE_H
#define HTTP_HTTP_PARSE_H

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "http/http_scan.h"

struct http_parser;

enum http_feed {
    HTTP_FEED_MORE,    /* everything was taken, the message goes on */
    HTTP_FEED_DONE,    /* the message ended after *consumed bytes */
    HTTP_FEED_STOPPED, /* a hook returned false */
    HTTP_FEED_FAULT    /* see http_parser.fault */
};

struct http_parser_hooks {
    bool (*head)(struct http_parser *p, void *data);
    bool (*body)(struct http_parser *p, const char *bytes, size_t length, void *data);
};

struct http_field {
    uint32_t name; /* offsets in http_parser.text, NUL-terminated; the name in lower case */
    uint32_t value;
};

/* Zero allocation until the first byte of a head arrives. */
struct http_parser {
    llhttp_t ll;
    struct http_scan scan;
    const struct http_parser_hooks *hooks;
    void *data;
    struct buf text; /* target, names and values, each with a NUL */
    struct http_field *fields;
    uint32_t field_count;
    uint32_t field_capacity;
    uint32_t target;
    uint8_t item;     /* what is being collected */
    uint8_t interims; /* 1xx answers skipped */
    bool request;
    bool head_request; /* answers: to a HEAD, so without a body */
    bool head_done;
    bool complete;
    bool stopped;    /* a hook said so */
    bool keep_alive; /* valid once the message is complete */
    uint64_t body_bytes;
    uint64_t wire_bytes; /* after the head */
    struct http_fault fault;
};

/* hooks must outlive the parser. */
void http_parser_init(struct http_parser *p, bool request, const struct http_parser_hooks *hooks, void *data);
/* Ready for another message; keeps hooks and kind. */
void http_parser_reset(struct http_parser *p);
void http_parser_free(struct http_parser *p);

enum http_feed http_parser_feed(struct http_parser *p, const char *data, size_t length, size_t *ret_consumed);

/* The peer sent EOF: DONE if that ends the message (body until close), else FAULT "truncated". */
enum http_feed http_parser_finish(struct http_parser *p);

/* After the head; the texts live until reset. */
int http_parser_status(const struct http_parser *p);
const char *http_parser_method(const struct http_parser *p);
char *http_parser_target(struct http_parser *p); /* raw; may be changed in place */
/* By lower-case name; several fields of one name come joined by ", "; NULL if there is none. */
const char *http_parser_field(const struct http_parser *p, const char *name);
/* What Content-Length says, UINT64_MAX if there is none. */
uint64_t http_parser_content_length(const struct http_parser *p);
/* A body follows the head of this request. */
bool http_parser_expects_body(const struct http_parser *p);

#endif
