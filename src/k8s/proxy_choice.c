#include "k8s/proxy_choice.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

#include "base/mem.h"
#include "k8s/access.h"
#include "loop/proxy.h"

/* Bytes of the address, 0 if it is a name. */
static size_t address_read(const char *text, unsigned char bytes[16])
{
    if (uv_inet_pton(AF_INET, text, bytes) == 0)
        return 4;
    return uv_inet_pton(AF_INET6, text, bytes) == 0 ? 16 : 0;
}

static bool in_network(const char *network, const char *bits_text, const char *host)
{
    unsigned char net[16], address[16];
    char *end;
    size_t size = address_read(network, net);
    long bits = strtol(bits_text, &end, 10);
    if (size == 0 || address_read(host, address) != size || *end != '\0' || bits < 0 || bits > (long)size * 8)
        return false;
    size_t whole = (size_t)bits / 8;
    unsigned char mask = (unsigned char)(0xff00u >> (bits % 8));
    return memcmp(net, address, whole) == 0 && (bits % 8 == 0 || ((net[whole] ^ address[whole]) & mask) == 0);
}

static bool name_matches(const char *entry, const char *host)
{
    size_t length = strlen(host), suffix = strlen(entry);
    bool dotted = entry[0] == '.';
    if (!dotted && strcasecmp(entry, host) == 0)
        return true;
    if (suffix == 0 || length <= suffix || strcasecmp(host + length - suffix, entry) != 0)
        return false;
    return dotted || host[length - suffix - 1] == '.';
}

/* The entry is changed. */
static bool entry_names(char *entry, const char *host, int port)
{
    unsigned char bytes[16];
    char *slash = strchr(entry, '/');
    if (strcmp(entry, "*") == 0)
        return true;
    if (slash != NULL) {
        *slash = '\0';
        return in_network(entry, slash + 1, host);
    }
    char *colon = strrchr(entry, ':');
    if (colon != NULL && address_read(entry, bytes) == 0) { /* not the colon of an IPv6 address */
        *colon = '\0';
        if (atoi(colon + 1) != port)
            return false;
    }
    size_t length = strlen(entry);
    if (length > 1 && entry[0] == '[' && entry[length - 1] == ']') {
        entry[length - 1] = '\0';
        entry++;
    }
    if (strncmp(entry, "*.", 2) == 0)
        entry++;
    return name_matches(entry, host);
}

bool no_proxy_names(const char *list, const char *host, int port)
{
    char *copy = mem_strdup(list), *rest = copy;
    bool found = false;
    for (char *entry; !found && (entry = strsep(&rest, ",")) != NULL;) {
        entry += strspn(entry, " \t");
        entry[strcspn(entry, " \t")] = '\0';
        found = entry[0] != '\0' && entry_names(entry, host, port);
    }
    free(copy);
    return found;
}

/* Host and port of "https://host:port/...". The host is to be freed. */
static char *server_host(const char *server, int *ret_port)
{
    const char *at = strstr(server, "://");
    at = at != NULL ? at + 3 : server;
    size_t length = strcspn(at, "/?#");
    const char *close = *at == '[' ? memchr(at, ']', length) : NULL;
    const char *host_end = close != NULL ? close : memchr(at, ':', length);
    const char *port = host_end != NULL ? host_end + (close != NULL) : NULL;
    *ret_port = strncasecmp(server, "http:", 5) == 0 ? 80 : 443;
    if (port != NULL && *port == ':')
        *ret_port = atoi(port + 1);
    at += close != NULL;
    return mem_strndup(at, host_end != NULL ? (size_t)(host_end - at) : length);
}

static bool is_loopback(const char *host)
{
    unsigned char bytes[16];
    static const unsigned char v6[16] = {[15] = 1};
    size_t size = address_read(host, bytes);
    return strcasecmp(host, "localhost") == 0 || (size == 4 && bytes[0] == 127) ||
           (size == 16 && memcmp(bytes, v6, 16) == 0);
}

static const char *env_either(struct env *env, const char *upper, const char *lower, const char **ret_name)
{
    const char *value = env->get(env, upper);
    *ret_name = upper;
    if (value == NULL || value[0] == '\0') {
        value = env->get(env, lower);
        *ret_name = lower;
    }
    return value != NULL ? value : "";
}

int proxy_choose(struct env *env, const struct k8s_access *access, struct proxy **ret, struct err *err)
{
    const char *name = NULL, *unused, *url = access->proxy_url;
    *ret = NULL;
    if (url != NULL) {
        int rc = proxy_parse(url, ret, err);
        return rc == 0 ? 0 : err_wrap(err, "%s: proxy-url", access->source);
    }
    if (strncasecmp(access->server, "http:", 5) == 0)
        url = env_either(env, "HTTP_PROXY", "http_proxy", &name);
    else
        url = env_either(env, "HTTPS_PROXY", "https_proxy", &name);
    if (url[0] == '\0')
        return 0;
    int port, rc = 0;
    char *host = server_host(access->server, &port);
    if (!is_loopback(host) && !no_proxy_names(env_either(env, "NO_PROXY", "no_proxy", &unused), host, port))
        rc = proxy_parse(url, ret, err);
    free(host);
    return rc == 0 ? 0 : err_wrap(err, "%s", name);
}
