#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "http/http_exchange.h"
#include "http/http_server.h"
#include "http/http_url.h"

const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (reasons[i].status == status) {
            return reasons[i].reason;
        }
    }
    return "Unknown";
}

int http_status_of(enum err_code code)
{
    switch (code) {
    case ERRC_INVALID:
        return 400;
    case ERRC_AUTH:
        return 403;
    case ERRC_NOT_FOUND:
        return 404;
    case ERRC_EXISTS:
    case ERRC_CONFLICT:
        return 409;
    case ERRC_REFUSED:
        return 422;
    case ERRC_LIMIT:
        return 429;
    case ERRC_UNAVAILABLE:
    case ERRC_TIMEOUT:
        return 503;
    case ERRC_UNSUPPORTED:
        return 501;
    default:
        return 500;
    }
}

/* A JSON string; bytes that are not UTF-8 (a detail may quote the peer) become '?'. */
static void json_add_string(struct buf *out, const char *text)
{
    bool utf8 = http_utf8_valid(text, strlen(text));
    buf_addc(out, '"');
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\') {
            buf_addc(out, '\\');
            buf_addc(out, *p);
        } else if (c < 0x20) {
            buf_printf(out, "\\u%04x", (unsigned)c);
        } else {
            buf_addc(out, c >= 0x80 && !utf8 ? '?' : *p);
        }
    }
    buf_addc(out, '"');
}

static void problem_respond(struct http_exchange *ex, int status, const char *code, const char *detail)
{
    struct buf body = {0};
    buf_add_text(&body, "{\"type\":");
    struct buf type = {0};
    buf_printf(&type, "https://shardherd.io/problems/%s", code);
    json_add_string(&body, buf_text(&type));
    buf_free(&type);
    buf_add_text(&body, ",\"title\":");
    json_add_string(&body, http_reason(status));
    buf_printf(&body, ",\"status\":%d,\"detail\":", status);
    json_add_string(&body, detail);
    buf_add_text(&body, ",\"code\":");
    json_add_string(&body, code);
    buf_add_text(&body, "}\n");
    http_respond(ex, status, "application/problem+json", body.data, body.length);
    buf_free(&body);
}

void http_problem(struct http_exchange *ex, int status, const char *code, const char *fmt, ...)
{
    char detail[ERR_MESSAGE_SIZE * 2];
    va_list args;
    va_start(args, fmt);
    vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);
    problem_respond(ex, status, code, detail);
}

void http_problem_err(struct http_exchange *ex, const struct err *err)
{
    problem_respond(ex, http_status_of(err->code), err_code_name(err->code), err->message);
}
