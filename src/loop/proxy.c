#include "loop/proxy.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

#include "base/mem.h"

#define ANSWER_MAX 8192 /* head of the answer to CONNECT */

/* ---- URLs ---- */

static int hex_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* NULL if an escape is broken or stands for a NUL. */
static char *decoded(const char *text, size_t length)
{
    char *copy = mem_zalloc(length + 1), *to = copy; /* zeros: it is wiped up to the first */
    for (size_t i = 0; i < length; i++) {
        int high = 0, low = 0;
        if (text[i] != '%') {
            *to++ = text[i];
            continue;
        }
        if (length - i < 3 || (high = hex_of(text[i + 1])) < 0 || (low = hex_of(text[i + 2])) < 0 ||
            high + low == 0) {
            mem_wipe_free(copy);
            return NULL;
        }
        *to++ = (char)(high * 16 + low);
        i += 2;
    }
    *to = '\0';
    return copy;
}

static int no_url(struct err *err)
{
    return err_set(err, ERRC_INVALID,
                   "the proxy's URL is not http://[user:password@]host[:port], https://... or socks5://...");
}

static int user_parse(struct proxy *p, const char *text, size_t length, struct err *err)
{
    const char *colon = memchr(text, ':', length);
    size_t user = colon != NULL ? (size_t)(colon - text) : length;
    p->user = decoded(text, user);
    p->password = colon != NULL ? decoded(colon + 1, length - user - 1) : mem_strdup("");
    if (p->user == NULL || p->password == NULL)
        return no_url(err);
    if (strlen(p->user) > 255 || strlen(p->password) > 255)
        return err_set(err, ERRC_INVALID, "the proxy's user name and password may have 255 bytes each");
    return 0;
}

static int host_parse(struct proxy *p, const char *text, size_t length, int port, struct err *err)
{
    const char *end = text + length, *host_end = end;
    if (length > 0 && *text == '[') {
        text++;
        host_end = memchr(text, ']', (size_t)(end - text));
        if (host_end == NULL)
            return no_url(err);
        length = (size_t)(host_end + 1 - text);
    } else {
        const char *colon = memchr(text, ':', length);
        host_end = colon != NULL ? colon : end;
        length = (size_t)(host_end - text);
    }
    const char *rest = text + length;
    p->host = mem_strndup(text, (size_t)(host_end - text));
    p->port = port;
    if (rest < end) {
        char digits[8] = {0}, *stop;
        if (*rest != ':' || end - rest < 2 || end - rest > 6)
            return no_url(err);
        memcpy(digits, rest + 1, (size_t)(end - rest - 1));
        p->port = (int)strtol(digits, &stop, 10);
        if (*stop != '\0')
            return no_url(err);
    }
    return p->host[0] != '\0' && p->port > 0 && p->port <= 65535 ? 0 : no_url(err);
}

int proxy_parse(const char *url, struct proxy **ret, struct err *err)
{
    const char *at = strstr(url, "://");
    struct proxy *p = mem_zalloc(sizeof *p);
    int port = 1080, rc = 0;
    p->refs = 1;
    p->kind = PROXY_SOCKS5;
    if (at == NULL ||
        strncasecmp(url, "http://", 7) == 0) { /* without a scheme: as in HTTPS_PROXY=host:port */
        p->kind = PROXY_HTTP;
        port = 80;
    } else if (strncasecmp(url, "https://", 8) == 0) {
        p->kind = PROXY_HTTP;
        p->tls = true;
        port = 443;
    } else if (strncasecmp(url, "socks5://", 9) != 0 && strncasecmp(url, "socks5h://", 10) != 0) {
        rc = err_set(err, ERRC_UNSUPPORTED,
                     "a proxy is reached by http://, https:// or socks5://, not by %.*s://",
                     (int)(at - url < 16 ? at - url : 16), url);
    }
    at = at != NULL ? at + 3 : url;
    size_t length = strcspn(at, "/?#");
    const char *user_end = NULL;
    for (size_t i = 0; i < length; i++)
        user_end = at[i] == '@' ? at + i : user_end;
    if (rc == 0 && user_end != NULL)
        rc = user_parse(p, at, (size_t)(user_end - at), err);
    if (user_end != NULL) {
        length -= (size_t)(user_end + 1 - at);
        at = user_end + 1;
    }
    if (rc == 0)
        rc = host_parse(p, at, length, port, err);
    if (rc == 0)
        *ret = p;
    else
        proxy_unref(p);
    return rc;
}

struct proxy *proxy_ref(struct proxy *p)
{
    if (p != NULL)
        p->refs++;
    return p;
}

void proxy_unref(struct proxy *p)
{
    if (p == NULL || --p->refs > 0)
        return;
    free(p->host);
    mem_wipe_free(p->user);
    mem_wipe_free(p->password);
    free(p);
}

/* ---- HTTP ---- */

static void http_begin(struct proxy_talk *t)
{
    bool v6 = strchr(t->host, ':') != NULL;
    const char *open = v6 ? "[" : "", *close = v6 ? "]" : "";
    (void)buf_printf(&t->out, "CONNECT %s%s%s:%d HTTP/1.1\r\nHost: %s%s%s:%d\r\n", open, t->host, close,
                     t->port, open, t->host, close, t->port);
    if (t->proxy->user != NULL) {
        char *pair = mem_printf("%s:%s", t->proxy->user, t->proxy->password);
        size_t length = strlen(pair);
        char *code = mem_alloc(length / 3 * 4 + 5);
        (void)EVP_EncodeBlock((unsigned char *)code, (const unsigned char *)pair, (int)length);
        (void)buf_printf(&t->out, "Proxy-Authorization: Basic %s\r\n", code);
        mem_wipe_free(pair);
        mem_wipe_free(code);
    }
    (void)buf_add_text(&t->out, "\r\n");
}

static enum proxy_state refused(struct err *err, enum err_code code, const char *why)
{
    (void)err_set(err, code, "the proxy %s", why);
    return PROXY_REFUSED;
}

static enum proxy_state http_feed(struct proxy_talk *t, struct err *err)
{
    const char *text = buf_text(&t->in), *end = strstr(text, "\r\n\r\n");
    int status = 0;
    if (t->in.length >= 5 && strncmp(text, "HTTP/", 5) != 0)
        return refused(err, ERRC_PROTOCOL, "does not speak HTTP");
    if (end == NULL)
        return t->in.length < ANSWER_MAX ? PROXY_MORE : refused(err, ERRC_LIMIT, "answers without end");
    if (sscanf(text, "HTTP/1.%*1[01] %3d", &status) != 1)
        return refused(err, ERRC_PROTOCOL, "does not speak HTTP/1.1");
    if (status == 407 || status == 401) /* tinyproxy says 401 to a wrong one */
        return refused(err, ERRC_AUTH, "wants a user name and password, or others");
    if (status < 200 || status > 299) {
        (void)err_set(err, ERRC_UNAVAILABLE, "the proxy does not connect to %s port %d: it answers %.*s",
                      t->host, t->port,
                      (int)strcspn(text + 9, "\r\n") < 80 ? (int)strcspn(text + 9, "\r\n") : 80, text + 9);
        return PROXY_REFUSED;
    }
    if (end + 4 != text + t->in.length)
        return refused(err, ERRC_PROTOCOL, "sends bytes that nobody asked for");
    return PROXY_OPEN;
}

/* ---- SOCKS 5 ---- */

enum { SOCKS_METHOD, SOCKS_USER, SOCKS_CONNECT };

static void socks_begin(struct proxy_talk *t)
{
    if (t->proxy->user != NULL)
        (void)buf_add(&t->out, "\5\2\0\2", 4); /* nothing, or name and password */
    else
        (void)buf_add(&t->out, "\5\1\0", 3);
}

static void socks_connect(struct proxy_talk *t)
{
    unsigned char v4[4], v6[16];
    t->step = SOCKS_CONNECT;
    (void)buf_add(&t->out, "\5\1\0", 3);
    if (uv_inet_pton(AF_INET, t->host, v4) == 0) {
        (void)buf_addc(&t->out, 1);
        (void)buf_add(&t->out, v4, sizeof v4);
    } else if (uv_inet_pton(AF_INET6, t->host, v6) == 0) {
        (void)buf_addc(&t->out, 4);
        (void)buf_add(&t->out, v6, sizeof v6);
    } else { /* a host name has at most 253 bytes */
        (void)buf_addc(&t->out, 3);
        (void)buf_addc(&t->out, (char)strlen(t->host));
        (void)buf_add(&t->out, t->host, strlen(t->host));
    }
    (void)buf_addc(&t->out, (char)(t->port >> 8));
    (void)buf_addc(&t->out, (char)(t->port & 255));
}

static enum proxy_state socks_method(struct proxy_talk *t, struct err *err)
{
    int method = (unsigned char)t->in.data[1];
    if (t->in.data[0] != 5)
        return refused(err, ERRC_PROTOCOL, "does not speak SOCKS 5");
    buf_reset(&t->in);
    if (method == 0) {
        socks_connect(t);
    } else if (method == 2 && t->proxy->user != NULL) {
        t->step = SOCKS_USER;
        (void)buf_addc(&t->out, 1);
        (void)buf_addc(&t->out, (char)strlen(t->proxy->user));
        (void)buf_add(&t->out, t->proxy->user, strlen(t->proxy->user));
        (void)buf_addc(&t->out, (char)strlen(t->proxy->password));
        (void)buf_add(&t->out, t->proxy->password, strlen(t->proxy->password));
    } else {
        return refused(err, ERRC_AUTH,
                       "wants a user name and password, or something else that is not offered");
    }
    return PROXY_MORE;
}

static enum proxy_state socks_connected(struct proxy_talk *t, struct err *err)
{
    static const char *const why[] = {"",
                                      "general failure",
                                      "not allowed by its rules",
                                      "network unreachable",
                                      "host unreachable",
                                      "connection refused",
                                      "time to live expired",
                                      "command not supported",
                                      "address type not supported"};
    const unsigned char *in = (const unsigned char *)t->in.data;
    if (in[0] != 5 || (in[3] != 1 && in[3] != 3 && in[3] != 4))
        return refused(err, ERRC_PROTOCOL, "does not speak SOCKS 5");
    size_t address = in[3] == 1 ? 4 : in[3] == 4 ? 16 : 1 + (size_t)in[4], whole = 4 + address + 2;
    if (in[1] != 0) {
        (void)err_set(err, ERRC_UNAVAILABLE, "the proxy does not connect to %s port %d: %s", t->host, t->port,
                      in[1] < sizeof why / sizeof why[0] ? why[in[1]] : "no reason that is known");
        return PROXY_REFUSED;
    }
    if (t->in.length < whole)
        return PROXY_MORE;
    return t->in.length == whole ? PROXY_OPEN
                                 : refused(err, ERRC_PROTOCOL, "sends bytes that nobody asked for");
}

static enum proxy_state socks_feed(struct proxy_talk *t, struct err *err)
{
    size_t need = t->step == SOCKS_CONNECT ? 5 : 2;
    if (t->in.length < need)
        return PROXY_MORE;
    if (t->step == SOCKS_METHOD)
        return socks_method(t, err);
    if (t->step == SOCKS_CONNECT)
        return socks_connected(t, err);
    if (t->in.data[1] != 0)
        return refused(err, ERRC_AUTH, "does not accept the user name and password");
    buf_reset(&t->in);
    socks_connect(t);
    return PROXY_MORE;
}

void proxy_begin(struct proxy_talk *t)
{
    if (t->proxy->kind == PROXY_HTTP)
        http_begin(t);
    else
        socks_begin(t);
}

enum proxy_state proxy_feed(struct proxy_talk *t, const char *bytes, size_t length, struct err *err)
{
    t->in.limit = 2 * ANSWER_MAX;
    if (!buf_add(&t->in, bytes, length))
        return refused(err, ERRC_LIMIT, "answers without end");
    return t->proxy->kind == PROXY_HTTP ? http_feed(t, err) : socks_feed(t, err);
}

void proxy_end(struct proxy_talk *t)
{
    if (t->out.data != NULL)
        memset(t->out.data, 0, t->out.length);
    buf_free(&t->in);
    buf_free(&t->out);
}
