#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/yaml.h"

/* Words that YAML 1.1 or 1.2 reads as something else than text. */
static bool is_reserved(const char *s)
{
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "~"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcasecmp(s, words[i]) == 0)
            return true;
    return false;
}

/* Text that may be written as it is. Numbers, dates and 12:30 (sexagesimal) begin with a digit, a sign or a
 * dot. */
static bool is_plain(const char *s, size_t length)
{
    if (length == 0 || strlen(s) != length || is_reserved(s) || isspace((unsigned char)s[length - 1]))
        return false;
    if (!isalpha((unsigned char)s[0]) && s[0] != '/' && s[0] != '_')
        return false;
    for (const char *p = s; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
            return false;
        if ((*p == ':' && (p[1] == ' ' || p[1] == '\0')) || (*p == '#' && p > s && p[-1] == ' '))
            return false;
    }
    return true;
}

/* JSON's escapes are valid in YAML's double quotes. */
static void print_quoted(const char *s, size_t length, struct buf *out)
{
    buf_addc(out, '"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c == '\n')
            buf_add_text(out, "\\n");
        else if (c == '\t')
            buf_add_text(out, "\\t");
        else if (c < 0x20 || c == 0x7f)
            buf_printf(out, "\\x%02X", c);
        else if (c == 0xc2 && i + 1 < length &&
                 (unsigned char)s[i + 1] < 0xa1) { /* C1 controls, no-break space */
            buf_printf(out, "\\x%02X", (unsigned char)s[++i]);
        } else
            buf_addc(out, (char)c);
    }
    buf_addc(out, '"');
}

/* Several lines of printable ASCII, the first of which is not indented or empty. */
static bool is_block(const char *s, size_t length)
{
    const char *end = memchr(s, '\n', length);
    if (end == NULL || s[0] == ' ' || s[0] == '\n')
        return false;
    for (size_t i = 0; i < length; i++)
        if (s[i] != '\n' && ((unsigned char)s[i] < 0x20 || (unsigned char)s[i] >= 0x7f))
            return false;
    return length < 2 || s[length - 1] != '\n' || s[length - 2] != '\n';
}

static void print_block(const char *s, size_t length, int indent, struct buf *out)
{
    buf_add_text(out, s[length - 1] == '\n' ? "|" : "|-");
    for (const char *p = s; p < s + length;) {
        size_t line = strcspn(p, "\n");
        buf_addc(out, '\n');
        if (line > 0)
            buf_printf(out, "%*s%.*s", indent, "", (int)line, p);
        p += line + (p[line] == '\n');
    }
}

static void print_string(yyjson_val *value, int indent, struct buf *out)
{
    const char *s = yyjson_get_str(value);
    size_t length = yyjson_get_len(value);
    if (is_plain(s, length))
        buf_add(out, s, length);
    else if (is_block(s, length))
        print_block(s, length, indent, out);
    else
        print_quoted(s, length, out);
}

static void print_scalar(yyjson_val *value, int indent, struct buf *out)
{
    if (yyjson_is_str(value)) {
        print_string(value, indent, out);
        return;
    }
    if (yyjson_is_arr(value) || yyjson_is_obj(value)) {
        buf_add_text(out, yyjson_is_arr(value) ? "[]" : "{}");
        return;
    }
    char *text = yyjson_val_write(value, 0, NULL);
    buf_add_text(out, text != NULL ? text : "null");
    free(text);
}

static bool is_nested(yyjson_val *value)
{
    return (yyjson_is_arr(value) || yyjson_is_obj(value)) && yyjson_get_len(value) > 0;
}

/* `first`: the cursor stands where the first line goes already (after "- "). Recursion is as deep as JSON's.
 */
static void print_value(yyjson_val *value, int indent, bool first, struct buf *out)
{
    size_t i, max;
    yyjson_val *key, *item;
    if (yyjson_is_arr(value)) {
        yyjson_arr_foreach(value, i, max, item)
        {
            buf_printf(out, "%*s- ", first && i == 0 ? 0 : indent, "");
            if (is_nested(item))
                print_value(item, indent + 2, true, out);
            else {
                print_scalar(item, indent + 2, out);
                buf_addc(out, '\n');
            }
        }
        return;
    }
    yyjson_obj_foreach(value, i, max, key, item)
    {
        buf_printf(out, "%*s", first && i == 0 ? 0 : indent, "");
        if (is_plain(yyjson_get_str(key), yyjson_get_len(key)))
            buf_add(out, yyjson_get_str(key), yyjson_get_len(key));
        else
            print_quoted(yyjson_get_str(key), yyjson_get_len(key), out);
        buf_add_text(out, is_nested(item) ? ":\n" : ": ");
        if (is_nested(item))
            print_value(item, yyjson_is_arr(item) ? indent : indent + 2, false, out);
        else {
            print_scalar(item, indent + 2, out);
            buf_addc(out, '\n');
        }
    }
}

void yaml_print(yyjson_val *value, struct buf *out)
{
    if (is_nested(value)) {
        print_value(value, 0, false, out);
        return;
    }
    print_scalar(value, 2, out);
    buf_addc(out, '\n');
}
