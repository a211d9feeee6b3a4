#include "manager/config_key.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/text.h"
#include "manager/config_node.h"

static const char *const type_names[] = {"text",   "boolean", "integer", "duration",
                                         "number", "choice",  "address", "list"};

const char *config_type_name(enum config_type type)
{
    return type_names[type];
}

const char *config_key_name(const struct config_key *key)
{
    const char *dot = strchr(key->path, '.');
    return dot != NULL ? dot + 1 : key->path;
}

void config_key_env(const struct config_key *key, char out[CONFIG_ENV_SIZE])
{
    snprintf(out, CONFIG_ENV_SIZE, "SHARDHERD_%s", key->path);
    for (char *c = out; *c != '\0'; c++)
        *c = *c == '.' ? '_' : (char)toupper((unsigned char)*c);
}

/* ---- text to value ---- */

/* What a key of any type but texts holds while it is checked. */
union value {
    bool boolean;
    int64_t integer;
    uint64_t duration;
    double real;
};

static bool to_bool(const char *text, bool *ret)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcasecmp(words[i], text) == 0) {
            *ret = i % 2 == 1;
            return true;
        }
    return false;
}

static bool to_choice(const char *choices, const char *text, int64_t *ret)
{
    int64_t position = 0;
    for (const char *at = choices;; position++) {
        size_t n = strcspn(at, "|");
        if (strlen(text) == n && strncmp(at, text, n) == 0) {
            *ret = position;
            return true;
        }
        if (at[n] == '\0')
            return false;
        at += n + 1;
    }
}

static bool to_real(const char *text, double *ret)
{
    uint64_t bytes;
    if (text_to_double(text, ret))
        return true;
    if (!text_to_bytes(text, &bytes))
        return false;
    *ret = (double)bytes;
    return true;
}

static bool to_value(const struct config_key *key, const char *text, union value *ret)
{
    switch (key->type) {
    case CONFIG_BOOL:
        return to_bool(text, &ret->boolean);
    case CONFIG_INT:
        return text_to_int64(text, &ret->integer);
    case CONFIG_DURATION:
        if (key->off && strcmp(text, "off") == 0) {
            ret->duration = CONFIG_OFF;
            return true;
        }
        return text_to_duration(text, &ret->duration);
    case CONFIG_REAL:
        return to_real(text, &ret->real);
    case CONFIG_CHOICE:
        return to_choice(key->choices, text, &ret->integer);
    default:
        return false;
    }
}

static bool in_range(const struct config_key *key, const union value *v)
{
    union value low, high;
    if (key->low == NULL || !to_value(key, key->low, &low) || !to_value(key, key->high, &high))
        return true;
    switch (key->type) {
    case CONFIG_INT:
        return v->integer >= low.integer && v->integer <= high.integer;
    case CONFIG_DURATION:
        return (key->off && v->duration == CONFIG_OFF) ||
               (v->duration >= low.duration && v->duration <= high.duration);
    case CONFIG_REAL:
        return v->real >= low.real && v->real <= high.real;
    default:
        return true;
    }
}

static void store(const struct config_key *key, void *base, const union value *v)
{
    char *at = (char *)base + key->offset;
    int number = (int)v->integer; /* also of enums and unsigned, whose values are small */
    switch (key->type) {
    case CONFIG_BOOL:
        memcpy(at, &v->boolean, sizeof v->boolean);
        break;
    case CONFIG_DURATION:
        memcpy(at, &v->duration, sizeof v->duration);
        break;
    case CONFIG_REAL:
        memcpy(at, &v->real, sizeof v->real);
        break;
    default:
        memcpy(at, &number, sizeof number);
        break;
    }
}

static const char *wanted(const struct config_key *key)
{
    switch (key->type) {
    case CONFIG_BOOL:
        return "true or false: write one of them";
    case CONFIG_INT:
        return "an integer: write e.g. 8";
    case CONFIG_DURATION:
        return key->off ? "a duration: write e.g. 500ms, 10s, 5m, 1h, or off"
                        : "a duration: write e.g. 500ms, 10s, 5m, 1h";
    case CONFIG_REAL:
        return "a number: write e.g. 1000, 1.5 or 16MB";
    default:
        return "a value of this key";
    }
}

static int choice_fail(const struct config_key *key, const char *text, struct err *err)
{
    char words[128], shown[CONFIG_SHOW_SIZE], hint[CONFIG_HINT_SIZE];
    const char *list[16] = {words};
    int count = 1;
    snprintf(words, sizeof words, "%s", key->choices);
    for (char *bar = words; (bar = strchr(bar, '|')) != NULL && count < 15; count++) {
        *bar++ = '\0';
        list[count] = bar;
    }
    config_show(text, shown);
    config_hint(text, list, hint);
    return err_set(err, ERRC_INVALID, "\"%s\" is none of %s%s", shown, key->choices,
                   config_nearest(text, list) != NULL ? hint : ": write one of them");
}

static int address_check(const char *text, struct err *err)
{
    unsigned char binary[16];
    char shown[CONFIG_SHOW_SIZE];
    if (inet_pton(AF_INET, text, binary) == 1 || inet_pton(AF_INET6, text, binary) == 1)
        return 0;
    config_show(text, shown);
    return err_set(err, ERRC_INVALID, "\"%s\" is not a numeric address: write e.g. 127.0.0.1 or ::1", shown);
}

static int text_check(const struct config_key *key, const char *text, struct err *err)
{
    int64_t position;
    if (key->type == CONFIG_ADDRESS)
        return address_check(text, err);
    if (key->choices != NULL && !to_choice(key->choices, text, &position))
        return choice_fail(key, text, err);
    for (const char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return err_set(err, ERRC_INVALID, "it holds a control character: write it on one line");
    if (text[0] == '\0' || strlen(text) > 4096)
        return err_set(err, ERRC_INVALID, "it must have 1 to 4096 bytes: %s",
                       key->standard != NULL ? "leave the key out for its default" : "leave the key out");
    return 0;
}

static int set_text(const struct config_key *key, void *base, const char *text, struct err *err)
{
    int rc = text != NULL ? text_check(key, text, err) : 0;
    if (rc != 0)
        return rc;
    char *copy = mem_strdup(text);
    config_key_clear(key, base);
    memcpy((char *)base + key->offset, &copy, sizeof copy);
    return 0;
}

int config_key_set(const struct config_key *key, void *base, const char *text, struct err *err)
{
    union value v = {0};
    char shown[CONFIG_SHOW_SIZE];
    const char *given = text != NULL ? text : key->standard;
    if (key->type == CONFIG_LIST)
        return err_set(err, ERRC_INVALID, "it is a list: give it in the configuration file");
    if (key->type == CONFIG_TEXT || key->type == CONFIG_ADDRESS)
        return set_text(key, base, given, err);
    config_show(given, shown);
    if (!to_value(key, given, &v))
        return key->type == CONFIG_CHOICE
                   ? choice_fail(key, given, err)
                   : err_set(err, ERRC_INVALID, "\"%s\" is not %s", shown, wanted(key));
    if (!in_range(key, &v))
        return err_set(err, ERRC_INVALID, "%s is out of range: write a value from %s to %s", shown, key->low,
                       key->high);
    store(key, base, &v);
    return 0;
}

/* ---- value to text ---- */

void config_print_duration(uint64_t ns, struct buf *out)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {{"h", 3600000000000}, {"m", 60000000000}, {"s", 1000000000}, {"ms", 1000000}, {"us", 1000}};
    size_t i = 0;
    while (ns != 0 && i < 4 && ns % units[i].ns != 0)
        i++;
    if (ns == 0)
        i = 2;
    buf_printf(out, "%" PRIu64 "%s", ns / units[i].ns, units[i].name);
}

void config_print_real(double value, struct buf *out)
{
    char text[40];
    double back = 0;
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (text_to_double(text, &back) && back >= value && back <= value)
            break;
    }
    buf_add_text(out, text);
}

static void print_choice(const char *choices, int position, struct buf *out)
{
    const char *at = choices;
    for (int i = 0; i < position && strchr(at, '|') != NULL; i++)
        at = strchr(at, '|') + 1;
    buf_add(out, at, strcspn(at, "|"));
}

bool config_key_print(const struct config_key *key, const void *base, struct buf *out)
{
    const char *at = (const char *)base + key->offset;
    char *text;
    int number;
    union value v;
    switch (key->type) {
    case CONFIG_TEXT:
    case CONFIG_ADDRESS:
        memcpy(&text, at, sizeof text);
        return text != NULL && buf_add_text(out, text);
    case CONFIG_BOOL:
        memcpy(&v.boolean, at, sizeof v.boolean);
        return buf_add_text(out, v.boolean ? "true" : "false");
    case CONFIG_DURATION:
        memcpy(&v.duration, at, sizeof v.duration);
        if (key->off && v.duration == CONFIG_OFF)
            return buf_add_text(out, "off");
        config_print_duration(v.duration, out);
        return true;
    case CONFIG_REAL:
        memcpy(&v.real, at, sizeof v.real);
        config_print_real(v.real, out);
        return true;
    case CONFIG_INT:
        memcpy(&number, at, sizeof number);
        return buf_printf(out, "%d", number);
    case CONFIG_CHOICE:
        memcpy(&number, at, sizeof number);
        print_choice(key->choices, number, out);
        return true;
    default:
        return false;
    }
}

bool config_key_equal(const struct config_key *key, const void *a, const void *b)
{
    struct buf x = {0}, y = {0};
    bool has_x = config_key_print(key, a, &x), has_y = config_key_print(key, b, &y);
    bool equal = has_x == has_y && strcmp(buf_text(&x), buf_text(&y)) == 0;
    buf_free(&x);
    buf_free(&y);
    return equal;
}

void config_key_copy(const struct config_key *key, void *to, const void *from)
{
    static const size_t sizes[] = {
        [CONFIG_BOOL] = sizeof(bool),   [CONFIG_INT] = sizeof(int),    [CONFIG_DURATION] = sizeof(uint64_t),
        [CONFIG_REAL] = sizeof(double), [CONFIG_CHOICE] = sizeof(int), [CONFIG_LIST] = 0};
    memcpy((char *)to + key->offset, (const char *)from + key->offset, sizes[key->type]);
}

void config_key_clear(const struct config_key *key, void *base)
{
    char *text, *none = NULL;
    if (key->type != CONFIG_TEXT && key->type != CONFIG_ADDRESS)
        return;
    memcpy(&text, (char *)base + key->offset, sizeof text);
    free(text);
    memcpy((char *)base + key->offset, &none, sizeof none);
}
