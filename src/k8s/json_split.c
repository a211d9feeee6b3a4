#include <string.h>

#include "k8s/json_split.h"

#define DEPTH_MAX 250 /* of the rest; Kubernetes' own parser stops at 10,000, its lists need 4 */

void json_split_init(struct json_split *split, enum json_split_kind kind, size_t item_limit)
{
    memset(split, 0, sizeof *split);
    split->kind = kind;
    split->item_limit = item_limit;
    split->item.limit = item_limit + JSON_SPLIT_PADDING;
    split->rest.limit = item_limit;
}

void json_split_free(struct json_split *split)
{
    buf_free(&split->item);
    buf_free(&split->rest);
}

bool json_split_complete(const struct json_split *split)
{
    return split->kind == JSON_SPLIT_LINES ? split->item.length == 0 : split->done;
}

static int too_long(const struct json_split *split, struct err *err)
{
    return err_set(err, ERRC_LIMIT, "the API server sent an object of more than %zu bytes",
                   split->item_limit);
}

static bool emit(struct json_split *split, json_split_cb cb, void *data)
{
    if (buf_reserve(&split->item, JSON_SPLIT_PADDING) == NULL)
        return false; /* not reached: the limit leaves room */
    memset(split->item.data + split->item.length, 0, JSON_SPLIT_PADDING);
    bool on = cb(split->item.data, split->item.length, data);
    buf_reset(&split->item);
    return on;
}

/* ---- lines ---- */

static int feed_lines(struct json_split *split, const char *bytes, size_t length, json_split_cb cb,
                      void *data, struct err *err)
{
    while (length > 0) {
        const char *end = memchr(bytes, '\n', length);
        size_t n = end != NULL ? (size_t)(end - bytes) : length;
        if (!buf_add(&split->item, bytes, n))
            return too_long(split, err);
        if (end == NULL)
            return 0;
        bytes += n + 1;
        length -= n + 1;
        if (split->item.length > 0 && !emit(split, cb, data))
            return 0;
    }
    return 0;
}

/* ---- items ---- */

static bool is_structural(char c)
{
    return c == '"' || c == ',' || c == '{' || c == '}' || c == '[' || c == ']';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Bytes that belong together: all up to the end of a string, or up to the next byte with a meaning. */
static size_t run_length(const struct json_split *split, const char *bytes, size_t length)
{
    size_t n = 0;
    if (split->in_string) {
        while (n < length && bytes[n] != '"' && bytes[n] != '\\')
            n++;
    } else {
        while (n < length && !is_structural(bytes[n]))
            n++;
    }
    return n;
}

/* Takes the byte if it is inside a string, or opens one. */
static bool take_string(struct json_split *split, char c)
{
    if (!split->in_string) {
        split->in_string = c == '"';
        return split->in_string;
    }
    if (split->escaped)
        split->escaped = false;
    else if (c == '\\')
        split->escaped = true;
    else if (c == '"')
        split->in_string = false;
    return true;
}

static bool items_follow(const struct json_split *split)
{
    static const char key[] = "\"items\"";
    if (split->depth != 1 || split->rest.length < split->key_at + sizeof key)
        return false;
    const char *text = split->rest.data + split->key_at;
    if (strncmp(text, key, sizeof key - 1) != 0)
        return false;
    text += sizeof key - 1;
    text += strspn(text, " \t\r\n:");
    return *text == '\0';
}

static int rest_byte(struct json_split *split, char c, struct err *err)
{
    bool opening = !split->in_string && c == '"';
    if (opening && split->depth == 1)
        split->key_at = split->rest.length;
    if (take_string(split, c))
        return 0;
    if (c == '[' && items_follow(split)) {
        split->in_items = true;
        split->item_depth = 0;
    } else if (c == '{' || c == '[') {
        if (split->depth++ == DEPTH_MAX)
            return err_set(err, ERRC_PROTOCOL, "the list from the API server is nested too deeply");
    } else if (c == '}' || c == ']') {
        if (split->depth == 0)
            return err_set(err, ERRC_PROTOCOL, "the list from the API server has a bracket too many");
        split->done = --split->depth == 0;
    }
    return 0;
}

/* A byte between "[" and "]" of "items". */
static bool item_byte(struct json_split *split, char c, bool *ret_ended)
{
    *ret_ended = false;
    if (take_string(split, c))
        return buf_addc(&split->item, c);
    if (split->item_depth == 0 && (c == ',' || c == ']')) {
        *ret_ended = split->item.length > 0;
        split->in_items = c == ',';
        return c == ',' || buf_addc(&split->rest, c);
    }
    if (c == '{' || c == '[')
        split->item_depth++;
    else if ((c == '}' || c == ']') && split->item_depth > 0)
        split->item_depth--;
    return buf_addc(&split->item, c);
}

static int feed_run(struct json_split *split, const char *bytes, size_t n, struct err *err)
{
    if (split->escaped && n > 0)
        split->escaped = false;
    bool outside = split->done || (split->in_items && split->item.length == 0);
    while (n > 0 && outside && is_blank(*bytes)) {
        bytes++;
        n--;
    }
    if (n > 0 && split->done)
        return err_set(err, ERRC_PROTOCOL, "the list from the API server goes on after its end");
    return buf_add(split->in_items ? &split->item : &split->rest, bytes, n) ? 0 : too_long(split, err);
}

static int feed_items(struct json_split *split, const char *bytes, size_t length, json_split_cb cb,
                      void *data, struct err *err)
{
    while (length > 0) {
        size_t n = run_length(split, bytes, length);
        if (feed_run(split, bytes, n, err) != 0)
            return (int)ERRC_PROTOCOL;
        bytes += n;
        length -= n;
        if (length == 0)
            return 0;
        bool ended = false;
        if (split->in_items) {
            if (!item_byte(split, *bytes, &ended))
                return too_long(split, err);
        } else if (rest_byte(split, *bytes, err) != 0) {
            return (int)ERRC_PROTOCOL;
        } else if (!buf_addc(&split->rest, *bytes)) {
            return too_long(split, err);
        }
        bytes++;
        length--;
        if (ended && !emit(split, cb, data))
            return 0;
    }
    return 0;
}

int json_split_feed(struct json_split *split, const char *bytes, size_t length, json_split_cb cb, void *data,
                    struct err *err)
{
    if (split->kind == JSON_SPLIT_LINES)
        return feed_lines(split, bytes, length, cb, data, err);
    return feed_items(split, bytes, length, cb, data, err);
}
