#include "http/http_url.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "http/http_server.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One byte at *at, which is moved past it; -1 for a malformed escape. */
static int decode_byte(const char **at)
{
    const char *p = *at;
    if (*p != '%') {
        *at = p + 1;
        return (unsigned char)*p;
    }
    int high = hex_digit(p[1]);
    int low = high < 0 ? -1 : hex_digit(p[2]);
    if (low < 0) {
        return -1;
    }
    *at = p + 3;
    return high * 16 + low;
}

/* Length of the UTF-8 sequence at p, 0 if it is none. */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80) {
        return 1;
    }
    size_t length = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || left < length) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f)) {
        return 0;
    }
    return length;
}

bool http_utf8_valid(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        size_t step = utf8_sequence((const unsigned char *)text + i, length - i);
        if (step == 0) {
            return false;
        }
        i += step;
    }
    return true;
}

/* Decodes `path` in place and removes doubled slashes. */
static bool path_decode(char *path)
{
    char *out = path;
    for (const char *in = path; *in != '\0';) {
        bool escaped = *in == '%';
        int c = decode_byte(&in);
        if (c < 0x20 || c == 0x7f || (escaped && (c == '/' || c == '\\'))) {
            return false;
        }
        if (c == '/' && out > path && out[-1] == '/') {
            continue;
        }
        *out++ = (char)c;
    }
    *out = '\0';
    return http_utf8_valid(path, (size_t)(out - path));
}

static bool path_has_dots(const char *path)
{
    for (const char *p = strchr(path, '/'); p != NULL; p = strchr(p + 1, '/')) {
        size_t length = strcspn(p + 1, "/");
        if ((length == 1 && p[1] == '.') || (length == 2 && p[1] == '.' && p[2] == '.')) {
            return true;
        }
    }
    return false;
}

/* "http://host/path" as sent to proxies: the path is what counts, Host was checked by itself. */
static char *target_skip_origin(char *target)
{
    size_t scheme = strncasecmp(target, "http://", 7) == 0    ? 7
                    : strncasecmp(target, "https://", 8) == 0 ? 8
                                                              : 0;
    return scheme == 0 ? target : target + scheme + strcspn(target + scheme, "/?");
}

bool http_target_split(char *target, char **ret_path, char **ret_query)
{
    if (strchr(target, '#') != NULL) {
        return false;
    }
    char *path = target_skip_origin(target);
    bool absolute = path != target;
    char *query = strchr(path, '?');
    if (query != NULL) {
        *query++ = '\0';
    } else {
        query = path + strlen(path);
    }
    if (absolute && path[0] == '\0') {
        *--path = '/'; /* there are at least the bytes of the scheme before it */
    }
    if (strcmp(path, "*") != 0 && (path[0] != '/' || !path_decode(path) || path_has_dots(path))) {
        return false;
    }
    *ret_path = path;
    *ret_query = query;
    return true;
}

/* Decodes one form-encoded item that ends at `end`; false if malformed or it does not fit. */
static bool form_decode(const char *in, const char *end, char *out, size_t size)
{
    size_t used = 0;
    while (in < end) {
        if (*in == '%' && end - in < 3) {
            return false;
        }
        bool plus = *in == '+';
        int c = decode_byte(&in);
        if (c <= 0 || used + 1 >= size) {
            return false;
        }
        out[used++] = plus ? ' ' : (char)c;
    }
    out[used] = '\0';
    return true;
}

bool http_query_get(const char *query, const char *name, char *out, size_t size)
{
    char key[128];
    if (size == 0) {
        return false;
    }
    for (const char *p = query; *p != '\0';) {
        const char *end = p + strcspn(p, "&");
        const char *equals = memchr(p, '=', (size_t)(end - p));
        const char *key_end = equals != NULL ? equals : end;
        if (form_decode(p, key_end, key, sizeof key) && strcmp(key, name) == 0) {
            return form_decode(equals != NULL ? equals + 1 : end, end, out, size);
        }
        p = *end == '&' ? end + 1 : end;
    }
    return false;
}

static int url_fail(struct err *err, const char *what)
{
    /* the text itself may hold a token, so it is not repeated */
    return err_set(err, ERRC_INVALID, "URL: %s", what);
}

static bool host_is_sound(const char *host, bool bracketed)
{
    const char *allowed = bracketed ? "0123456789abcdefABCDEF:."
                                    : "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    return host[0] != '\0' && host[strspn(host, allowed)] == '\0';
}

static bool url_port(const char *text, size_t length, int *ret)
{
    char digits[6];
    int64_t port = 0;
    if (length == 0 || length >= sizeof digits) {
        return false;
    }
    memcpy(digits, text, length);
    digits[length] = '\0';
    if (!text_to_int64(digits, &port) || port < 1 || port > 65535) {
        return false;
    }
    *ret = (int)port;
    return true;
}

/* "host", "host:1", "[::1]", "[::1]:1" of the given length. */
static int url_authority(const char *text, size_t length, struct http_url *url, struct err *err)
{
    bool bracketed = length > 0 && text[0] == '[';
    const char *end = text + length;
    const char *host = bracketed ? text + 1 : text;
    const char *host_end = memchr(host, bracketed ? ']' : ':', (size_t)(end - host));
    if (host_end == NULL) {
        if (bracketed) {
            return url_fail(err, "'[' without ']'");
        }
        host_end = end;
    }
    size_t host_length = (size_t)(host_end - host);
    if (host_length >= sizeof url->host) {
        return url_fail(err, "host name too long");
    }
    memcpy(url->host, host, host_length);
    url->host[host_length] = '\0';
    const char *rest = bracketed ? host_end + 1 : host_end;
    if (!host_is_sound(url->host, bracketed)) {
        return url_fail(err, "missing or malformed host (user names are not allowed here)");
    }
    if (rest < end && (*rest != ':' || !url_port(rest + 1, (size_t)(end - rest - 1), &url->port))) {
        return url_fail(err, "malformed port");
    }
    return 0;
}

int http_url_parse(const char *text, struct http_url *ret, struct err *err)
{
    struct http_url url = {0};
    if (strncasecmp(text, "https://", 8) == 0) {
        url.tls = true;
        text += 8;
    } else if (strncasecmp(text, "http://", 7) == 0) {
        text += 7;
    } else {
        return url_fail(err, "must start with http:// or https://");
    }
    url.port = url.tls ? 443 : 80;
    size_t authority = strcspn(text, "/?#");
    int code = url_authority(text, authority, &url, err);
    if (code != 0) {
        return code;
    }
    url.target = text + authority;
    for (const char *p = url.target; *p != '\0'; p++) {
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f || *p == '#') {
            return url_fail(err, "path and query must be percent-encoded and without '#'");
        }
    }
    *ret = url;
    return 0;
}

void http_url_authority(const struct http_url *url, char out[HTTP_AUTHORITY_SIZE])
{
    bool bracketed = strchr(url->host, ':') != NULL;
    int port = url->port == (url->tls ? 443 : 80) ? 0 : url->port;
    int n =
        snprintf(out, HTTP_AUTHORITY_SIZE, "%s%s%s", bracketed ? "[" : "", url->host, bracketed ? "]" : "");
    if (port != 0) {
        snprintf(out + n, HTTP_AUTHORITY_SIZE - (size_t)n, ":%d", port);
    }
}
