#include "manager/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "manager/config_key.h"
#include "manager/config_node.h"
#include "manager/config_static.h"

#define KEYS_MAX 128

static const char *const sections[] = {"log",        "listen",  "store", "kubernetes", "runtime", "discovery",
                                       "prometheus", "polling", "moves", "balance",    NULL};

void config_init(struct config *c)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    *c = (struct config){0};
    for (size_t i = 0; i < count; i++)
        if (keys[i].type != CONFIG_LIST)
            config_key_set(&keys[i], c, NULL, NULL);
}

void config_free(struct config *c)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++)
        config_key_clear(&keys[i], c);
    config_static_free(c);
    free(c->path);
    *c = (struct config){0};
}

/* ---- the three sources ---- */

struct loading {
    struct config config;
    char *origin[KEYS_MAX]; /* by key: what set it, as an error begins; NULL = default */
    const char *source;
    struct err *err;
};

static const struct config_key *key_find(const char *path, size_t *ret)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    *ret = 0;
    for (size_t i = 0; i < count; i++)
        if (strcmp(keys[i].path, path) == 0) {
            *ret = i;
            return &keys[i];
        }
    return NULL;
}

/* Takes origin. Without a text it is the default again, as if nothing had been said. */
static int loading_set(struct loading *l, const struct config_key *key, size_t index, const char *text,
                       char *origin)
{
    free(l->origin[index]);
    l->origin[index] = origin;
    int rc = config_key_set(key, &l->config, text, l->err);
    if (rc != 0)
        return err_wrap(l->err, "%s: %s", origin, key->path);
    if (text == NULL) {
        free(origin);
        l->origin[index] = NULL;
    }
    return 0;
}

/* Names of a section's keys; "" = top level with the sections. `words` has room for all. */
static void known_names(const char *section, const char **words)
{
    size_t count, n = 0, length = strlen(section);
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++) {
        const char *dot = strchr(keys[i].path, '.');
        bool inside = length == 0 ? dot == NULL
                                  : dot != NULL && (size_t)(dot - keys[i].path) == length &&
                                        strncmp(keys[i].path, section, length) == 0;
        if (inside)
            words[n++] = config_key_name(&keys[i]);
    }
    for (size_t i = 0; length == 0 && sections[i] != NULL; i++)
        words[n++] = sections[i];
    words[n] = NULL;
}

static int file_key(struct loading *l, const struct config_node *node, const char *path)
{
    size_t index;
    const struct config_key *key = key_find(path, &index);
    if (key->type == CONFIG_LIST)
        return config_static_parse(node, l->source, &l->config, l->err);
    int rc = config_node_want_text(node, l->source, path, l->err);
    if (rc != 0)
        return rc;
    return loading_set(l, key, index, config_node_is_null(node) ? NULL : node->text,
                       mem_printf("%s:%d:%d", l->source, node->line, node->column));
}

static int file_section(struct loading *l, const struct config_node *node, const char *section)
{
    const char *words[KEYS_MAX];
    char path[256];
    if (config_node_is_null(node))
        return 0;
    known_names(section, words);
    int rc = config_node_want_map(node, l->source, section, l->err);
    if (rc == 0)
        rc = config_node_want_keys(node, l->source, words, l->err);
    for (int i = 0; i < node->count && rc == 0; i++) {
        snprintf(path, sizeof path, "%s.%s", section, node->items[i].key);
        rc = file_key(l, &node->items[i], path);
    }
    return rc;
}

static int file_root(struct loading *l, const struct config_node *root)
{
    const char *words[KEYS_MAX];
    size_t index;
    if (config_node_is_null(root))
        return 0;
    known_names("", words);
    int rc = config_node_want_map(root, l->source, "the configuration", l->err);
    if (rc == 0)
        rc = config_node_want_keys(root, l->source, words, l->err);
    for (int i = 0; i < root->count && rc == 0; i++) {
        const struct config_node *item = &root->items[i];
        rc = key_find(item->key, &index) != NULL ? file_key(l, item, item->key)
                                                 : file_section(l, item, item->key);
    }
    return rc;
}

static int from_text(struct loading *l, const char *text, size_t length)
{
    struct config_node root;
    int rc = config_node_parse(text, length, l->source, &root, l->err);
    if (rc != 0)
        return rc;
    rc = file_root(l, &root);
    config_node_free(&root);
    return rc;
}

static int from_variable(struct loading *l, struct env *env, const char *variable, const char *path)
{
    size_t index;
    const struct config_key *key = key_find(path, &index);
    const char *value = env->get(env, variable);
    if (value == NULL || value[0] == '\0')
        return 0;
    return loading_set(l, key, index, value, mem_printf("environment variable %s", variable));
}

static int from_environment(struct loading *l, struct env *env)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    int rc = from_variable(l, env, "DISCOVERY_ENABLED", "discovery.enabled");
    if (rc == 0)
        rc = from_variable(l, env, "DISCOVERY_INTERVAL", "discovery.interval");
    if (rc == 0)
        rc = from_variable(l, env, "KUBERNETES_NAMESPACE", "kubernetes.namespace");
    if (rc == 0)
        rc = from_variable(l, env, "PROMETHEUS_ENABLED", "prometheus.enabled");
    if (rc == 0)
        rc = from_variable(l, env, "PROMETHEUS_URL", "prometheus.url");
    for (size_t i = 0; i < count && rc == 0; i++) {
        char variable[CONFIG_ENV_SIZE];
        config_key_env(&keys[i], variable);
        rc = from_variable(l, env, variable, keys[i].path);
    }
    return rc;
}

static int unknown_flag(struct loading *l, const char *path)
{
    const char *words[KEYS_MAX + 1] = {0};
    char shown[CONFIG_SHOW_SIZE];
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++)
        words[i] = keys[i].path;
    const char *near = config_nearest(path, words);
    config_show(path, shown);
    if (near != NULL)
        return err_set(l->err, ERRC_INVALID, "flag %s: there is no such key (did you mean \"%s\"?)", shown,
                       near);
    return err_set(l->err, ERRC_INVALID,
                   "flag %s: there is no such key: keys are those of the configuration "
                   "file, like log.level",
                   shown);
}

static int from_flag(struct loading *l, const char *flag)
{
    size_t index;
    const char *equals = strchr(flag, '=');
    char shown[CONFIG_SHOW_SIZE];
    config_show(flag, shown);
    if (equals == NULL)
        return err_set(l->err, ERRC_INVALID, "flag %s has no value: write key.path=value", shown);
    char *path = mem_strndup(flag, (size_t)(equals - flag));
    const struct config_key *key = key_find(path, &index);
    int rc = key == NULL ? unknown_flag(l, path)
                         : loading_set(l, key, index, equals[1] != '\0' ? equals + 1 : NULL,
                                       mem_printf("flag %s", path));
    free(path);
    return rc;
}

/* ---- what is left to decide ---- */

static int state_directory(struct loading *l, struct env *env)
{
    size_t index;
    key_find("state_directory", &index);
    if (l->origin[index] != NULL || env == NULL || geteuid() == 0 || l->config.in_pod)
        return 0;
    const char *base = env->get(env, "XDG_STATE_HOME"), *home = env->get(env, "HOME");
    char *path = base != NULL && base[0] == '/'   ? mem_printf("%s/shardherd", base)
                 : home != NULL && home[0] == '/' ? mem_printf("%s/.local/state/shardherd", home)
                                                  : NULL;
    if (path == NULL)
        return err_set(
            l->err, ERRC_INVALID,
            "state_directory: neither XDG_STATE_HOME nor HOME says where it could be: set it in the "
            "file or with the flag state_directory=PATH");
    free(l->config.state_directory);
    l->config.state_directory = path;
    return 0;
}

/* In a pod the probes of the kubelet and Prometheus come from outside, and this listener changes nothing. */
static void in_pod(struct loading *l, struct env *env)
{
    size_t index;
    const struct config_key *key = key_find("listen.metrics_address", &index);
    const char *host = env != NULL ? env->get(env, "KUBERNETES_SERVICE_HOST") : NULL;
    l->config.in_pod = host != NULL && host[0] != '\0';
    if (l->config.in_pod && l->origin[index] == NULL)
        config_key_set(key, &l->config, "0.0.0.0", NULL);
}

static bool is_loopback(const char *address)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, address, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, address, &v6) != 1)
        return false;
    return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

static const char *origin_of(const struct loading *l, const char *path)
{
    size_t index;
    key_find(path, &index);
    return l->origin[index] != NULL ? l->origin[index] : "default";
}

/* At the one that was said. */
static int same_port(const struct loading *l, const char *one, const char *other, int port)
{
    bool said = strcmp(origin_of(l, one), "default") != 0;
    return err_set(l->err, ERRC_INVALID, "%s: %s: %d is the port of %s too: choose another",
                   origin_of(l, said ? one : other), said ? one : other, port, said ? other : one);
}

static int check_listeners(const struct loading *l)
{
    const struct config *c = &l->config;
    const struct {
        const char *address_key, *port_key, *address;
        int port;
    } all[] = {{"listen.public_address", "listen.public_port", c->public_address, c->public_port},
               {"listen.admin_address", "listen.admin_port", c->admin_address, c->admin_port},
               {"listen.metrics_address", "listen.metrics_port", c->metrics_address, c->metrics_port}};
    for (int i = 0; i < 3; i++) {
        if (!c->insecure_listen && !is_loopback(all[i].address) && !(c->in_pod && i == 2))
            return err_set(l->err, ERRC_INVALID,
                           "%s: %s: %s is reached from other machines and nothing is authenticated yet: use "
                           "127.0.0.1, or set insecure_listen: true (--insecure-listen)",
                           origin_of(l, all[i].address_key), all[i].address_key, all[i].address);
        for (int j = 0; j < i; j++)
            if (all[i].port != 0 && all[i].port == all[j].port && strcmp(all[i].address, all[j].address) == 0)
                return same_port(l, all[i].port_key, all[j].port_key, all[i].port);
    }
    return 0;
}

int config_parse(const char *text, size_t length, const char *source, struct env *env,
                 const char *const *flags, struct config *ret, struct err *err)
{
    struct err local = {0};
    struct loading l = {.source = source, .err = &local};
    config_init(&l.config);
    int rc = text != NULL ? from_text(&l, text, length) : 0;
    if (rc == 0 && env != NULL)
        rc = from_environment(&l, env);
    for (int i = 0; rc == 0 && flags != NULL && flags[i] != NULL; i++)
        rc = from_flag(&l, flags[i]);
    in_pod(&l, env);
    if (rc == 0)
        rc = state_directory(&l, env);
    if (rc == 0)
        rc = check_listeners(&l);
    for (size_t i = 0; i < KEYS_MAX; i++)
        free(l.origin[i]);
    if (rc != 0) {
        config_free(&l.config);
        return err_copy(err, &local);
    }
    l.config.path = mem_strdup(source);
    *ret = l.config;
    return 0;
}

/* ---- the file ---- */

static int read_rest(int fd, const char *path, struct buf *out, struct err *err)
{
    for (;;) {
        char *room = buf_reserve(out, 16384);
        ssize_t n = read(fd, room, 16384);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, errno, "%s cannot be read", path);
        if (n == 0)
            return 0;
        out->length += (size_t)n;
        if (out->length > CONFIG_TEXT_MAX)
            return err_set(err, ERRC_INVALID, "%s:1:1: more than %d bytes: is it a configuration file?", path,
                           CONFIG_TEXT_MAX);
    }
}

static int read_file(const char *path, struct buf *out, struct err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == ENOENT)
        return err_set(err, ERRC_NOT_FOUND, "%s does not exist: name the configuration file with -c", path);
    if (fd < 0)
        return err_set_errno(err, errno, "%s cannot be opened: let user %d read it", path, (int)geteuid());
    int rc = 0;
    if (fstat(fd, &st) != 0)
        rc = err_set_errno(err, errno, "%s", path);
    else if (!S_ISREG(st.st_mode))
        rc = err_set(err, ERRC_INVALID, "%s:1:1: it is not a plain file: name a YAML file", path);
    else
        rc = read_rest(fd, path, out, err);
    close(fd);
    return rc;
}

int config_load(const char *path, struct env *env, const char *const *flags, struct config *ret,
                struct err *err)
{
    struct buf text = {0};
    int rc = path != NULL ? read_file(path, &text, err) : 0;
    if (rc == 0)
        rc = config_parse(path != NULL ? buf_text(&text) : NULL, text.length, path, env, flags, ret, err);
    buf_free(&text);
    return rc;
}

/* ---- printing, comparing ---- */

static void print_key(const struct config *c, const struct config_key *key, struct buf *out)
{
    struct buf value = {0};
    buf_printf(out, "%s%s:", strchr(key->path, '.') != NULL ? "  " : "", config_key_name(key));
    if (key->type == CONFIG_LIST) {
        config_static_print(c, out);
        return;
    }
    buf_addc(out, ' ');
    if (!config_key_print(key, c, &value))
        buf_add_text(out, "null");
    else if ((key->type == CONFIG_TEXT && key->choices == NULL) || key->type == CONFIG_ADDRESS)
        config_print_quoted(buf_text(&value), out);
    else
        buf_add_text(out, buf_text(&value));
    buf_addc(out, '\n');
    buf_free(&value);
}

void config_print(const struct config *c, struct buf *out)
{
    size_t count, length = 0;
    const struct config_key *keys = config_keys(&count);
    const char *section = "";
    for (size_t i = 0; i < count; i++) {
        const char *dot = strchr(keys[i].path, '.');
        size_t n = dot != NULL ? (size_t)(dot - keys[i].path) : 0;
        if (n > 0 && (n != length || strncmp(section, keys[i].path, n) != 0)) {
            section = keys[i].path;
            length = n;
            buf_printf(out, "%.*s:\n", (int)n, section);
        }
        print_key(c, &keys[i], out);
    }
}

void config_balance_follow(struct balance_policy *policy, unsigned given,
                           const struct balance_policy *defaults)
{
    size_t count;
    const struct config_key *keys = config_balance_keys(&count);
    for (size_t i = 0; i < count; i++)
        if ((given & 1u << i) == 0)
            config_key_copy(&keys[i], policy, defaults);
}

bool config_can_reload(const struct config *a, const struct config *b, const char **why)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++)
        if (!keys[i].reloadable && !config_key_equal(&keys[i], a, b)) {
            *why = keys[i].path;
            return false;
        }
    return true;
}
