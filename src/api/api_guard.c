/* Which Host a request to the admin port may name: a page that had its own name resolve to us (DNS rebinding)
 * sends that name. */
#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "api/api_impl.h"

#define HOST_SIZE 256

struct literal {
    int family; /* 0 = a name */
    unsigned char bytes[16];
};

static struct literal literal_of(const char *text)
{
    struct literal l = {0};
    if (inet_pton(AF_INET, text, l.bytes) == 1)
        l.family = AF_INET;
    else if (inet_pton(AF_INET6, text, l.bytes) == 1)
        l.family = AF_INET6;
    return l;
}

static bool literal_is_loopback(const struct literal *l)
{
    static const unsigned char six[16] = {[15] = 1};
    return (l->family == AF_INET && l->bytes[0] == 127) ||
           (l->family == AF_INET6 && memcmp(l->bytes, six, 16) == 0);
}

static bool literal_is_unspecified(const struct literal *l)
{
    static const unsigned char zero[16];
    return l->family != 0 && memcmp(l->bytes, zero, 16) == 0;
}

/* The host of "host[:port]" or "[v6][:port]"; false if it is neither. */
static bool host_part(const char *text, char out[HOST_SIZE])
{
    bool bracket = text[0] == '[';
    size_t length = bracket ? strcspn(++text, "]") : strcspn(text, ":");
    if (length == 0 || length >= HOST_SIZE)
        return false;
    memcpy(out, text, length);
    out[length] = '\0';
    text += length;
    if (bracket && *text++ != ']')
        return false;
    return *text == '\0' || (*text == ':' && text[1 + strspn(text + 1, "0123456789")] == '\0');
}

bool api_host_is_ours(const char *host, const char *own)
{
    char name[HOST_SIZE];
    if (host == NULL || !host_part(host, name))
        return false;
    struct literal asked = literal_of(name);
    if (literal_is_loopback(&asked) || strcasecmp(name, "localhost") == 0)
        return true;
    if (own == NULL)
        return false;
    struct literal ours = literal_of(own);
    if (literal_is_unspecified(&ours))
        return asked.family != 0;
    if (ours.family != 0)
        return ours.family == asked.family && memcmp(ours.bytes, asked.bytes, sizeof ours.bytes) == 0;
    return strcasecmp(name, own) == 0;
}
