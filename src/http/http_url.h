/*
 * http_url: URLs of requests we make, and targets and queries of requests we get. Pure.
 */
#ifndef HTTP_HTTP_URL_H
#define HTTP_HTTP_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct http_url {
    bool tls;
    char host[256]; /* without brackets */
    int port;
    const char *target; /* path and query, points into the text parsed; "" means "/" */
};

/* "http://host[:port]/..." or "https://..."; no user information, no fragment. ERRC_INVALID says what is
 * wrong. */
int http_url_parse(const char *text, struct http_url *ret, struct err *err);

/* The value of the Host header: "host", "host:8080", "[::1]:8080"; the scheme's own port is left out. */
#define HTTP_AUTHORITY_SIZE 280
void http_url_authority(const struct http_url *url, char out[HTTP_AUTHORITY_SIZE]);

/*
 * Splits a request target in place: *ret_path is decoded ("/" first, no NUL or control byte, valid UTF-8, no
 * ".." or "." segment, no doubled slash), *ret_query the raw text after '?'. False if it cannot be made so.
 * An encoded slash is refused: it would change which segments the path has. "*" stays "*".
 */
bool http_target_split(char *target, char **ret_path, char **ret_query);

/* Whether the bytes are valid UTF-8 (no surrogates, no overlong forms). */
bool http_utf8_valid(const char *text, size_t length);

#endif
