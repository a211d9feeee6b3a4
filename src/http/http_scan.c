#include "http/http_scan.h"

#include <string.h>

/* States of the scanner; nothing waits, every byte moves it. */
enum {
    SCAN_START,    /* before the first line, where blank lines are skipped */
    SCAN_START_LF, /* CR of such a blank line seen */
    SCAN_LINE,     /* in the request or status line */
    SCAN_FIELD,    /* at the start of a header line */
    SCAN_NAME,
    SCAN_VALUE,
    SCAN_LF,      /* CR at the end of a line seen */
    SCAN_LAST_LF, /* CR of the blank line that ends the head seen */
    SCAN_DONE
};

static const struct http_fault fault_bytes = {431, "headers_too_large",
                                              "request line and headers exceed 32 KiB"};
static const struct http_fault fault_fields = {431, "headers_too_large", "more than 100 header fields"};
static const struct http_fault fault_bare_lf = {400, "bad_request", "a line does not end with CR LF"};
static const struct http_fault fault_bare_cr = {400, "bad_request", "CR without LF"};
static const struct http_fault fault_fold = {400, "bad_request", "folded header line"};
static const struct http_fault fault_blank = {400, "bad_request", "blank before the colon of a header"};
static const struct http_fault fault_name = {400, "bad_request", "invalid byte in a header name"};
static const struct http_fault fault_control = {400, "bad_request",
                                                "control byte in the head of the message"};
static const struct http_fault fault_line = {400, "bad_request", "malformed request or status line"};

static const char protocol[] = "HTTP/";

bool http_is_token_byte(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        return true;
    }
    return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

void http_scan_init(struct http_scan *scan, bool request)
{
    memset(scan, 0, sizeof *scan);
    scan->state = SCAN_START;
    scan->request = request;
}

static const struct http_fault *scan_first_line(struct http_scan *scan, unsigned char c)
{
    if (c == '\r') {
        scan->state = SCAN_LF;
        return scan->request && scan->blanks != 2 ? &fault_line : NULL;
    }
    if (c == '\n') {
        return &fault_bare_lf;
    }
    if (c < 0x20 || c == 0x7f) {
        return &fault_control;
    }
    if (scan->request && c >= 0x80) {
        return &fault_line;
    }
    if (scan->request && c == ' ') {
        return ++scan->blanks > 2 ? &fault_line : NULL;
    }
    /* llhttp also speaks RTSP and ICE */
    if ((!scan->request || scan->blanks == 2) && scan->version_at < sizeof protocol - 1) {
        return c == (unsigned char)protocol[scan->version_at++] ? NULL : &fault_line;
    }
    return NULL;
}

static const struct http_fault *scan_field_start(struct http_scan *scan, unsigned char c)
{
    if (c == '\r') {
        scan->state = SCAN_LAST_LF;
        return NULL;
    }
    if (c == ' ' || c == '\t') {
        return &fault_fold;
    }
    if (c == '\n') {
        return &fault_bare_lf;
    }
    if (!http_is_token_byte(c)) {
        return &fault_name;
    }
    scan->state = SCAN_NAME;
    return ++scan->field_count > HTTP_FIELD_LIMIT ? &fault_fields : NULL;
}

static const struct http_fault *scan_name(struct http_scan *scan, unsigned char c)
{
    if (c == ':') {
        scan->state = SCAN_VALUE;
        return NULL;
    }
    if (c == ' ' || c == '\t') {
        return &fault_blank;
    }
    return http_is_token_byte(c) ? NULL : &fault_name;
}

static const struct http_fault *scan_value(struct http_scan *scan, unsigned char c)
{
    if (c == '\r') {
        scan->state = SCAN_LF;
        return NULL;
    }
    if (c == '\n') {
        return &fault_bare_lf;
    }
    return (c < 0x20 && c != '\t') || c == 0x7f ? &fault_control : NULL;
}

static const struct http_fault *scan_expect_lf(struct http_scan *scan, unsigned char c)
{
    if (c != '\n') {
        return &fault_bare_cr;
    }
    switch (scan->state) {
    case SCAN_START_LF:
        scan->state = SCAN_START;
        break;
    case SCAN_LF:
        scan->state = SCAN_FIELD;
        break;
    default:
        scan->state = SCAN_DONE;
    }
    return NULL;
}

static const struct http_fault *scan_byte(struct http_scan *scan, unsigned char c)
{
    switch (scan->state) {
    case SCAN_START:
        if (c == '\r') {
            scan->state = SCAN_START_LF;
            return NULL;
        }
        scan->state = SCAN_LINE;
        return scan_first_line(scan, c);
    case SCAN_LINE:
        return scan_first_line(scan, c);
    case SCAN_FIELD:
        return scan_field_start(scan, c);
    case SCAN_NAME:
        return scan_name(scan, c);
    case SCAN_VALUE:
        return scan_value(scan, c);
    default:
        return scan_expect_lf(scan, c);
    }
}

size_t http_scan_feed(struct http_scan *scan, const char *data, size_t length, struct http_fault *fault)
{
    size_t i = 0;
    while (i < length && scan->state != SCAN_DONE) {
        const struct http_fault *wrong = scan_byte(scan, (unsigned char)data[i++]);
        if (wrong == NULL && ++scan->bytes > HTTP_HEAD_LIMIT) {
            wrong = &fault_bytes;
        }
        if (wrong != NULL) {
            *fault = *wrong;
            return i;
        }
    }
    return i;
}

bool http_scan_done(const struct http_scan *scan)
{
    return scan->state == SCAN_DONE;
}
