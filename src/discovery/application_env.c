#include "discovery/application_env.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

#define VALUE_MAX 253

/* ---- names ---- */

static bool ends_with(const char *name, const char *end, size_t *ret_prefix)
{
    size_t n = strlen(name), m = strlen(end);
    if (n < m || strcasecmp(name + n - m, end) != 0)
        return false;
    *ret_prefix = n - m;
    return true;
}

static bool has_word(const char *name, const char *word)
{
    size_t length = strlen(word);
    for (const char *p = name; *p != '\0'; p++)
        if (strncasecmp(p, word, length) == 0 && (p == name || p[-1] == '_' || p[-1] == 'G') &&
            (p[length] == '\0' || p[length] == '_'))
            return true;
    return false;
}

bool env_is_secret_name(const char *name)
{
    static const char *const words[] = {"PASSWORD", "PASS",       "PASSWD", "PWD",  "SECRET",
                                        "TOKEN",    "CREDENTIAL", "KEY",    "CERT", "PASSFILE"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (has_word(name, words[i]))
            return true;
    return false;
}

/* Whether a prefix speaks of a database: "PG", "DB_", "ORDERS_DB_", "POSTGRES_", "DATABASE_", "SQL_". */
static bool prefix_fits(const char *name, size_t length)
{
    static const char *const words[] = {"PG",  "DB",   "POSTGRES", "POSTGRESQL", "DATABASE",
                                        "SQL", "JDBC", "PSQL",     "DATASOURCE"};
    while (length > 0 && name[length - 1] == '_')
        length--;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i]);
        for (size_t at = 0; at + n <= length; at++)
            if (strncasecmp(name + at, words[i], n) == 0 && (at == 0 || name[at - 1] == '_') &&
                (at + n == length || name[at + n] == '_'))
                return true;
    }
    return false;
}

/* DB_PORT, DBPORT and PGPORT, but not DB_SUPPORT. */
static bool ends_at_word(const char *name, size_t prefix, const char *end)
{
    return end[0] == '_' || name[prefix - 1] == '_' || prefix == 2;
}

enum env_role env_role_of(const char *name, size_t *ret_prefix)
{
    static const struct {
        const char *end;
        enum env_role role;
    } ends[] = {{"_URL", ENV_URL},
                {"_URI", ENV_URL},
                {"_DSN", ENV_URL},
                {"_CONNECTION", ENV_URL},
                {"_CONNECTION_STRING", ENV_URL},
                {"_CONN", ENV_URL},
                {"HOST", ENV_HOST},
                {"HOSTNAME", ENV_HOST},
                {"HOSTADDR", ENV_HOST},
                {"SERVER", ENV_HOST},
                {"ADDRESS", ENV_HOST},
                {"ADDR", ENV_HOST},
                {"PORT", ENV_PORT},
                {"DATABASE_NAME", ENV_DBNAME},
                {"DBNAME", ENV_DBNAME},
                {"DATABASE", ENV_DBNAME},
                {"NAME", ENV_DBNAME},
                {"_DB", ENV_DBNAME},
                {"USERNAME", ENV_USER},
                {"USER", ENV_USER}};
    if (env_is_secret_name(name) || strlen(name) > VALUE_MAX)
        return ENV_NONE;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t prefix;
        if (!ends_with(name, ends[i].end, &prefix) || !prefix_fits(name, prefix) ||
            !ends_at_word(name, prefix, ends[i].end))
            continue;
        /* "DATABASE_URL" has the prefix "DATABASE_", as DATABASE_HOST has */
        *ret_prefix = prefix + (ends[i].end[0] == '_');
        return ends[i].role;
    }
    return ENV_NONE;
}

/* ---- values ---- */

void env_target_free(struct env_target *t)
{
    mem_wipe_free(t->host);
    mem_wipe_free(t->port_name);
    mem_wipe_free(t->dbname);
    mem_wipe_free(t->user);
    *t = (struct env_target){0};
}

static char *part(const char *text, size_t length)
{
    return length > 0 && length <= VALUE_MAX ? mem_strndup(text, length) : NULL;
}

static void set_port(struct env_target *t, const char *text, size_t length)
{
    char number[8];
    int64_t port;
    if (length > 3 && text[0] == '$' && t->port_name == NULL)
        t->port_name = part(text, length);
    if (length == 0 || length >= sizeof number)
        return;
    memcpy(number, text, length);
    number[length] = '\0';
    if (text_to_int64(number, &port) && port > 0 && port <= 65535)
        t->port = (int)port;
}

/* host[:port][,...]; "$(HOST)" is a host too. */
static bool read_hosts(const char *text, size_t length, struct env_target *t)
{
    const char *comma = memchr(text, ',', length);
    t->more_hosts = comma != NULL;
    if (comma != NULL)
        length = (size_t)(comma - text);
    const char *port = NULL;
    if (length > 0 && text[0] == '[') {
        const char *close = memchr(text, ']', length);
        if (close == NULL)
            return false;
        t->host = part(text + 1, (size_t)(close - text) - 1);
        if (close + 1 < text + length && close[1] == ':')
            port = close + 2;
    } else {
        const char *colon = memchr(text, ':', length);
        /* an IPv6 address without brackets has several */
        if (colon != NULL && memchr(colon + 1, ':', length - (size_t)(colon + 1 - text)) == NULL)
            port = colon + 1;
        t->host = part(text, port != NULL ? (size_t)(colon - text) : length);
    }
    if (port != NULL)
        set_port(t, port, length - (size_t)(port - text));
    return t->host != NULL;
}

static void read_option(struct env_target *t, const char *key, size_t key_length, const char *value,
                        size_t length)
{
    struct {
        const char *key;
        char **field;
    } const fields[] = {{"host", &t->host},       {"server", &t->host}, {"dbname", &t->dbname},
                        {"database", &t->dbname}, {"user", &t->user},   {"username", &t->user},
                        {"user id", &t->user},    {"userid", &t->user}};
    if (key_length == 4 && strncasecmp(key, "port", 4) == 0)
        set_port(t, value, length);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (strlen(fields[i].key) == key_length && strncasecmp(key, fields[i].key, key_length) == 0) {
            mem_wipe_free(*fields[i].field);
            *fields[i].field = part(value, length);
        }
}

static void read_query(struct env_target *t, const char *query)
{
    while (*query != '\0') {
        size_t length = strcspn(query, "&"), key = strcspn(query, "=&");
        if (key < length)
            read_option(t, query, key, query + key + 1, length - key - 1);
        query += length;
        query += *query == '&';
    }
}

/* What follows "//". */
static bool read_authority(const char *text, struct env_target *t)
{
    size_t end = strcspn(text, "/?#");
    const char *rest = text + end;
    /* a password may hold '@' or even '/' unescaped: the last '@' before the query ends it */
    size_t before_query = strcspn(text, "?");
    const char *at = NULL;
    for (size_t i = 0; i < before_query; i++)
        if (text[i] == '@')
            at = text + i;
    if (at != NULL) {
        size_t user = strcspn(text, ":@");
        t->user = part(text, user);
        text = at + 1;
        end = strcspn(text, "/?#");
        rest = text + end;
    }
    bool found = end == 0 || read_hosts(text, end, t);
    if (*rest == '/') {
        size_t name = strcspn(rest + 1, "?#");
        t->dbname = part(rest + 1, name);
        rest += 1 + name;
    }
    if (*rest == '?')
        read_query(t, rest + 1);
    return found && t->host != NULL;
}

/* Pairs separated by ';' or blanks: "host=db port=5432", "Host=db;User Id=x". Values may be quoted. */
static bool read_pairs(const char *text, struct env_target *t)
{
    const char *separators = strchr(text, ';') != NULL ? ";" : " \t\r\n";
    while (*text != '\0') {
        text += strspn(text, "; \t\r\n");
        size_t key = strcspn(text, "=");
        if (text[key] == '\0')
            break;
        const char *value = text + key + 1;
        char quote = *value == '\'' ? '\'' : '\0';
        const char stop[2] = {quote, '\0'};
        value += quote != '\0';
        size_t length = strcspn(value, quote != '\0' ? stop : separators);
        while (key > 0 && isspace((unsigned char)text[key - 1]))
            key--;
        read_option(t, text, key, value, length);
        text = value + length;
        text += quote != '\0' && *text == quote;
    }
    return t->host != NULL;
}

static const char *after_scheme(const char *text)
{
    if (strncmp(text, "jdbc:", 5) == 0)
        text += 5;
    const char *const schemes[] = {"postgresql", "postgres"};
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        size_t n = strlen(schemes[i]);
        if (strncmp(text, schemes[i], n) != 0)
            continue;
        if (text[n] == '+')
            n += 1 + strcspn(text + n + 1, ":/");
        if (strncmp(text + n, "://", 3) == 0)
            return text + n + 3;
    }
    return NULL;
}

bool env_url_parse(const char *text, struct env_target *ret)
{
    struct env_target t = {0};
    const char *authority = after_scheme(text);
    bool pairs = authority == NULL && strcasestr(text, "host=") != NULL;
    bool server = authority == NULL && strncasecmp(text, "server=", 7) == 0;
    if (authority != NULL ? read_authority(authority, &t) : (pairs || server) && read_pairs(text, &t)) {
        *ret = t;
        return true;
    }
    env_target_free(&t);
    return false;
}

bool env_host_parse(const char *text, struct env_target *ret)
{
    struct env_target t = {0};
    if (after_scheme(text) != NULL)
        return env_url_parse(text, ret);
    if (read_hosts(text, strlen(text), &t)) {
        *ret = t;
        return true;
    }
    env_target_free(&t);
    return false;
}

/* ---- keeping ---- */

/* Letters, digits, and what is in `also`. */
static bool is_plain(const char *text, const char *also)
{
    for (const char *p = text; p != NULL && *p != '\0'; p++)
        if (!isalnum((unsigned char)*p) && strchr(also, *p) == NULL)
            return false;
    return text != NULL;
}

/* Nothing that looks like a host, a user or a name only because a text was read in the wrong way: it may have
 * a password in it ("server=mysql://u:p@h"). */
static char *keep_url(const char *value)
{
    struct env_target t;
    struct buf out = {0};
    if (!env_url_parse(value, &t))
        return NULL;
    if (!is_plain(t.host, t.host[0] == '/' ? "/.-_" : ".-_,:$()") ||
        (t.port_name != NULL && !is_plain(t.port_name, "-_$()"))) {
        env_target_free(&t);
        return NULL;
    }
    bool user = is_plain(t.user, ".-_$()+"), v6 = strchr(t.host, ':') != NULL;
    buf_printf(&out, "postgresql://%s%s%s%s%s", user ? t.user : "", user ? "@" : "", v6 ? "[" : "", t.host,
               v6 ? "]" : "");
    if (t.port != 0)
        buf_printf(&out, ":%d", t.port);
    else if (t.port_name != NULL)
        buf_printf(&out, ":%s", t.port_name);
    buf_addc(&out, '/');
    if (is_plain(t.dbname, ".-_$()+"))
        buf_add_text(&out, t.dbname);
    env_target_free(&t);
    char *kept = buf_take(&out);
    if (env_url_parse(kept, &t)) {
        env_target_free(&t);
        return kept;
    } /* nobody could connect with it either */
    mem_wipe_free(kept);
    return NULL;
}

char *env_keep(enum env_role role, const char *value)
{
    size_t length = strlen(value);
    if (role == ENV_NONE)
        return NULL;
    if (role == ENV_URL || after_scheme(value) != NULL)
        return keep_url(value);
    if (length == 0 || length > VALUE_MAX)
        return NULL;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)value[i]) && strchr(".-_,:[]$()@", value[i]) == NULL)
            return NULL;
    return mem_strdup(value);
}
