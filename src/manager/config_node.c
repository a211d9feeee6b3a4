#include "manager/config_node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/buf.h"
#include "base/mem.h"

struct reader {
    yaml_parser_t parser;
    const char *text; /* without a byte order mark */
    size_t length;
    const char *source;
    int nodes;
    struct err *err;
};

/* ---- errors ---- */

static int __attribute__((format(printf, 5, 0)))
fail_at(const char *source, int line, int column, struct err *err, const char *fmt, va_list args)
{
    char message[ERR_MESSAGE_SIZE];
    vsnprintf(message, sizeof message, fmt, args);
    return err_set(err, ERRC_INVALID, "%s:%d:%d: %s", source, line, column, message);
}

int config_node_fail(const struct config_node *node, const char *source, struct err *err, const char *fmt,
                     ...)
{
    va_list args;
    va_start(args, fmt);
    int rc = fail_at(source, node->line, node->column, err, fmt, args);
    va_end(args);
    return rc;
}

int config_node_fail_key(const struct config_node *node, const char *source, struct err *err, const char *fmt,
                         ...)
{
    va_list args;
    va_start(args, fmt);
    int rc = node->key != NULL ? fail_at(source, node->key_line, node->key_column, err, fmt, args)
                               : fail_at(source, node->line, node->column, err, fmt, args);
    va_end(args);
    return rc;
}

static int __attribute__((format(printf, 3, 4)))
reader_fail(struct reader *r, const yaml_mark_t *mark, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int rc = fail_at(r->source, (int)mark->line + 1, (int)mark->column + 1, r->err, fmt, args);
    va_end(args);
    return rc;
}

/* A bad byte: libyaml says only how many bytes came before it. */
static int reader_fail_byte(struct reader *r)
{
    yaml_mark_t mark = {0};
    for (size_t i = 0; i < r->length && i < r->parser.problem_offset; i++) {
        bool newline = r->text[i] == '\n';
        mark.line += newline;
        if (newline)
            mark.column = 0;
        else if (((unsigned char)r->text[i] & 0xc0) != 0x80)
            mark.column++;
    }
    return reader_fail(r, &mark, "%s: write the text as UTF-8, other characters escaped in double quotes",
                       r->parser.problem);
}

static int reader_fail_syntax(struct reader *r)
{
    yaml_parser_t *p = &r->parser;
    if (p->error == YAML_READER_ERROR)
        return reader_fail_byte(r);
    if (p->error == YAML_MEMORY_ERROR)
        return err_set(r->err, ERRC_INTERNAL, "%s: the YAML parser ran out of memory", r->source);
    const char *problem = p->problem != NULL ? p->problem : "it cannot be read";
    return reader_fail(r, &p->problem_mark, "not valid YAML: %s%s%s; check indentation, quotes and brackets",
                       problem, p->context != NULL ? " " : "", p->context != NULL ? p->context : "");
}

/* ---- reading ---- */

void config_node_free(struct config_node *node)
{
    for (int i = 0; i < node->count; i++)
        config_node_free(&node->items[i]);
    free(node->items);
    free(node->text);
    free(node->key);
    *node = (struct config_node){0};
}

static int reader_next(struct reader *r, yaml_event_t *event)
{
    return yaml_parser_parse(&r->parser, event) ? 0 : reader_fail_syntax(r);
}

static int check_plain_yaml(struct reader *r, const yaml_event_t *e)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT)
        return reader_fail(r, &e->start_mark, "aliases are not supported: write the value out");
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    }
    if (anchor != NULL)
        return reader_fail(r, &e->start_mark,
                           "anchors are not supported: write the value out where it is used");
    if (tag != NULL)
        return reader_fail(r, &e->start_mark, "tags are not supported: leave it out");
    return 0;
}

static int read_scalar(struct reader *r, const yaml_event_t *e, char **ret)
{
    const char *value = (const char *)e->data.scalar.value;
    if (strlen(value) != e->data.scalar.length)
        return reader_fail(r, &e->start_mark, "the value holds a NUL character: leave it out");
    *ret = mem_strndup(value, e->data.scalar.length);
    return 0;
}

/* Room doubles, so that long lists are not copied for each item. */
static struct config_node *add_item(struct config_node *parent)
{
    int n = parent->count;
    if ((n & (n - 1)) == 0)
        parent->items = mem_resize(parent->items, n == 0 ? 1 : (size_t)n * 2, sizeof *parent->items);
    parent->items[n] = (struct config_node){0};
    parent->count++;
    return &parent->items[n];
}

static int read_value(struct reader *r, const yaml_event_t *e, int depth, struct config_node *ret);

static int read_key(struct reader *r, const yaml_event_t *e, const struct config_node *map,
                    struct config_node *ret)
{
    if (e->type != YAML_SCALAR_EVENT)
        return reader_fail(r, &e->start_mark, "a key must be one word: write \"key: value\"");
    int rc = read_scalar(r, e, &ret->key);
    if (rc != 0)
        return rc;
    ret->key_line = (int)e->start_mark.line + 1;
    ret->key_column = (int)e->start_mark.column + 1;
    char shown[CONFIG_SHOW_SIZE];
    config_show(ret->key, shown);
    for (int i = 0; i < map->count - 1; i++)
        if (strcmp(map->items[i].key, ret->key) == 0)
            return reader_fail(r, &e->start_mark,
                               "\"%s\" is there twice, first in line %d: remove one of them", shown,
                               map->items[i].key_line);
    if (map->count > CONFIG_KEYS_MAX)
        return reader_fail(r, &e->start_mark, "more than %d keys in one mapping", CONFIG_KEYS_MAX);
    return 0;
}

/* What follows a key or a list's dash. */
static int read_next_value(struct reader *r, int depth, struct config_node *ret)
{
    yaml_event_t event;
    int rc = reader_next(r, &event);
    if (rc != 0)
        return rc;
    rc = read_value(r, &event, depth, ret);
    yaml_event_delete(&event);
    return rc;
}

static int read_items(struct reader *r, yaml_event_type_t end, int depth, struct config_node *ret)
{
    for (;;) {
        yaml_event_t event;
        int rc = reader_next(r, &event);
        if (rc != 0)
            return rc;
        bool over = event.type == end;
        if (!over) {
            struct config_node *item = add_item(ret);
            rc = check_plain_yaml(r, &event);
            if (rc == 0 && ret->kind == CONFIG_NODE_MAP)
                rc = read_key(r, &event, ret, item);
            else if (rc == 0)
                rc = read_value(r, &event, depth + 1, item);
        }
        yaml_event_delete(&event);
        if (over || rc != 0)
            return rc;
        if (ret->kind == CONFIG_NODE_MAP)
            rc = read_next_value(r, depth + 1, &ret->items[ret->count - 1]);
        if (rc != 0)
            return rc;
    }
}

static int read_value(struct reader *r, const yaml_event_t *e, int depth, struct config_node *ret)
{
    int rc = check_plain_yaml(r, e);
    if (rc != 0)
        return rc;
    if (depth > CONFIG_DEPTH_MAX)
        return reader_fail(r, &e->start_mark, "nested deeper than %d levels", CONFIG_DEPTH_MAX);
    if (++r->nodes > CONFIG_NODES_MAX)
        return reader_fail(r, &e->start_mark, "more than %d values", CONFIG_NODES_MAX);
    ret->line = (int)e->start_mark.line + 1;
    ret->column = (int)e->start_mark.column + 1;
    if (e->type == YAML_SCALAR_EVENT) {
        ret->kind = CONFIG_NODE_TEXT;
        ret->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        return read_scalar(r, e, &ret->text);
    }
    bool map = e->type == YAML_MAPPING_START_EVENT;
    ret->kind = map ? CONFIG_NODE_MAP : CONFIG_NODE_LIST;
    return read_items(r, map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT, depth, ret);
}

/* The events around the one document; nothing but its end may follow. */
static int read_document(struct reader *r, struct config_node *ret)
{
    bool seen = false;
    for (;;) {
        yaml_event_t event;
        int rc = reader_next(r, &event);
        if (rc != 0)
            return rc;
        bool over = event.type == YAML_STREAM_END_EVENT;
        switch (event.type) {
        case YAML_DOCUMENT_START_EVENT:
            if (seen)
                rc = reader_fail(r, &event.start_mark, "a second document begins here: one is allowed");
            break;
        case YAML_SCALAR_EVENT:
        case YAML_ALIAS_EVENT:
        case YAML_MAPPING_START_EVENT:
        case YAML_SEQUENCE_START_EVENT:
            seen = true;
            rc = read_value(r, &event, 1, ret);
            break;
        default:
            break;
        }
        yaml_event_delete(&event);
        if (rc != 0 || over)
            return rc;
    }
}

/* ---- what JSON and YAML see differently inside double quotes ---- */

static bool is_surrogate(const char *at, const char *end, unsigned low, unsigned *ret)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return false;
    unsigned value = 0;
    for (int i = 2; i < 6; i++) {
        const char *digits = "0123456789abcdef0123456789ABCDEF";
        const char *found = at[i] != '\0' ? strchr(digits, at[i]) : NULL;
        if (found == NULL)
            return false;
        value = value * 16 + (unsigned)((found - digits) % 16);
    }
    *ret = value - low;
    return value >= low && value < low + 0x400;
}

/* Bytes of a character that YAML takes for a line break or does not allow unescaped; 0 = another one. */
static size_t special_length(const char *text, const char *end, unsigned *code)
{
    const unsigned char *at = (const unsigned char *)text;
    if (at[0] == 0x7f || (at[0] < 0x20 && strchr("\t\r\n", at[0]) == NULL)) {
        *code = at[0];
        return 1;
    }
    if (end - text >= 2 && at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0) {
        *code = at[1];
        return 2;
    }
    if (end - text < 3)
        return 0;
    *code = (at[0] & 0xfu) << 12 | (at[1] & 0x3fu) << 6 | (at[2] & 0x3fu);
    bool separator = at[0] == 0xe2 && at[1] == 0x80 && (at[2] == 0xa8 || at[2] == 0xa9);
    bool mark = at[0] == 0xef && ((at[1] == 0xbb && at[2] == 0xbf) || (at[1] == 0xbf && at[2] >= 0xbe));
    return separator || mark ? 3 : 0;
}

/* "\ud83d\ude00" becomes "\U0001F600", and what is special to YAML alone is escaped. */
static void json_to_yaml(const char *text, size_t length, struct buf *out)
{
    const char *end = text + length;
    for (const char *at = text; at < end;) {
        unsigned high, low, code;
        if (is_surrogate(at, end, 0xd800, &high) && is_surrogate(at + 6, end, 0xdc00, &low)) {
            buf_printf(out, "\\U%08X", 0x10000 + (high << 10) + low);
            at += 12;
            continue;
        }
        /* JSON has control characters escaped already: raw ones stay an error */
        size_t special = (unsigned char)at[0] < 0x20 ? 0 : special_length(at, end, &code);
        if (special > 0) {
            buf_printf(out, "\\u%04X", code);
            at += special;
            continue;
        }
        size_t step = at[0] == '\\' && end - at > 1 && (unsigned char)at[1] < 0x7f ? 2 : 1;
        buf_add(out, at, step);
        at += step;
    }
}

void config_print_quoted(const char *text, struct buf *out)
{
    const char *end = text + strlen(text);
    buf_addc(out, '"');
    for (const char *at = text; at < end;) {
        unsigned code;
        size_t special = special_length(at, end, &code);
        if (special == 0 && strchr("\t\r\n", *at) != NULL) {
            code = (unsigned char)*at;
            special = 1;
        }
        if (special > 0)
            buf_printf(out, "\\u%04X", code);
        else if (*at == '"' || *at == '\\')
            buf_printf(out, "\\%c", *at);
        else
            buf_addc(out, *at);
        at += special > 0 ? special : 1;
    }
    buf_addc(out, '"');
}

int config_node_parse(const char *text, size_t length, const char *source, struct config_node *ret,
                      struct err *err)
{
    if (length > CONFIG_TEXT_MAX)
        return err_set(err, ERRC_INVALID, "%s:1:1: %zu bytes, more than %d: make it smaller", source, length,
                       CONFIG_TEXT_MAX);
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        length -= 3;
    }
    struct buf joined = {0};
    size_t blank = 0;
    while (blank < length && strchr(" \t\r\n", text[blank]) != NULL && text[blank] != '\0')
        blank++;
    if (blank < length && text[blank] == '{') {
        json_to_yaml(text, length, &joined);
        text = buf_text(&joined);
        length = joined.length;
    }
    struct reader r = {.text = text, .length = length, .source = source, .err = err};
    struct config_node root = {.line = 1, .column = 1, .plain = true, .text = NULL};
    if (!yaml_parser_initialize(&r.parser)) {
        buf_free(&joined);
        return err_set(err, ERRC_INTERNAL, "%s: the YAML parser ran out of memory", source);
    }
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, length);
    int rc = read_document(&r, &root);
    yaml_parser_delete(&r.parser);
    buf_free(&joined);
    if (rc != 0) {
        config_node_free(&root);
        return rc;
    }
    if (root.kind == CONFIG_NODE_TEXT && root.text == NULL)
        root.text = mem_strdup("");
    *ret = root;
    return 0;
}

/* ---- looking at it ---- */

bool config_node_is_null(const struct config_node *node)
{
    return node->kind == CONFIG_NODE_TEXT && node->plain &&
           (node->text[0] == '\0' || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

const struct config_node *config_node_get(const struct config_node *map, const char *key)
{
    for (int i = 0; i < map->count; i++)
        if (strcmp(map->items[i].key, key) == 0)
            return config_node_is_null(&map->items[i]) ? NULL : &map->items[i];
    return NULL;
}

int config_node_want_map(const struct config_node *node, const char *source, const char *what,
                         struct err *err)
{
    if (node->kind == CONFIG_NODE_MAP)
        return 0;
    return config_node_fail(node, source, err, "%s is not a mapping: write \"key: value\" lines below it",
                            what);
}

int config_node_want_list(const struct config_node *node, const char *source, const char *what,
                          struct err *err)
{
    if (node->kind == CONFIG_NODE_LIST)
        return 0;
    return config_node_fail(node, source, err, "%s is not a list: begin each item with \"- \"", what);
}

int config_node_want_text(const struct config_node *node, const char *source, const char *what,
                          struct err *err)
{
    if (node->kind == CONFIG_NODE_TEXT)
        return 0;
    return config_node_fail(node, source, err, "%s is a %s: write a single value", what,
                            node->kind == CONFIG_NODE_MAP ? "mapping" : "list");
}

int config_node_want_keys(const struct config_node *map, const char *source, const char *const *known,
                          struct err *err)
{
    for (int i = 0; i < map->count; i++) {
        const struct config_node *item = &map->items[i];
        bool found = false;
        for (int k = 0; !found && known[k] != NULL; k++)
            found = strcmp(known[k], item->key) == 0;
        if (found)
            continue;
        char shown[CONFIG_SHOW_SIZE], hint[CONFIG_HINT_SIZE];
        config_show(item->key, shown);
        config_hint(item->key, known, hint);
        return config_node_fail_key(item, source, err, "unknown key \"%s\"%s", shown, hint);
    }
    return 0;
}

/* ---- words ---- */

#define WORD_MAX 40

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* Letters to insert, remove or replace, and neighbours to swap. Both have at most WORD_MAX bytes. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t rows[3][WORD_MAX + 1]; /* this row is i % 3 */
    size_t width = strlen(b), height = strlen(a);
    for (size_t j = 0; j <= width; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= height; i++) {
        size_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *second = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= width; j++) {
            row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && second[j - 2] + 1 < row[j])
                row[j] = second[j - 2] + 1;
        }
    }
    return rows[height % 3][width];
}

const char *config_nearest(const char *word, const char *const *words)
{
    const char *best = NULL;
    size_t length = strlen(word), least = length < 6 ? 3 : length / 3 + 1;
    if (length > WORD_MAX)
        return NULL;
    for (int i = 0; words[i] != NULL; i++) {
        size_t distance = strlen(words[i]) <= WORD_MAX ? edit_distance(word, words[i]) : least;
        if (distance < least && distance < strlen(words[i])) {
            least = distance;
            best = words[i];
        }
    }
    return best;
}

void config_hint(const char *word, const char *const *words, char out[CONFIG_HINT_SIZE])
{
    const char *near = config_nearest(word, words);
    if (near != NULL) {
        snprintf(out, CONFIG_HINT_SIZE, " (did you mean \"%s\"?)", near);
        return;
    }
    struct buf list = {.limit = CONFIG_HINT_SIZE - 20};
    for (int i = 0; words[i] != NULL; i++)
        buf_printf(&list, "%s%s", i > 0 ? ", " : "", words[i]);
    snprintf(out, CONFIG_HINT_SIZE, " (known here: %s)", buf_text(&list));
    buf_free(&list);
}

void config_show(const char *text, char out[CONFIG_SHOW_SIZE])
{
    size_t n = strlen(text), keep = n > 40 ? 40 : n;
    /* no half of a character */
    while (keep < n && keep > 0 && ((unsigned char)text[keep] & 0xc0) == 0x80)
        keep--;
    for (size_t i = 0; i < keep; i++)
        out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    memcpy(out + keep, keep < n ? "..." : "", keep < n ? 4 : 1);
}
