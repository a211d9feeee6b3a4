/* links: loop */
/* The URL of a proxy (first line) and what it answers (the rest), in one piece and byte by byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "loop/proxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum proxy_state talk(const struct proxy *proxy, const char *text, size_t size, size_t piece)
{
    struct proxy_talk t = {.proxy = proxy, .host = "api.example", .port = 6443};
    enum proxy_state state = PROXY_MORE;
    proxy_begin(&t);
    for (size_t at = 0; at < size && state == PROXY_MORE; at += piece) {
        buf_reset(&t.out);
        state = proxy_feed(&t, text + at, piece < size - at ? piece : size - at, NULL);
    }
    proxy_end(&t);
    return state;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *line = memchr(text, '\n', size);
    size_t length = line != NULL ? (size_t)(line - text) : size;
    char *url = mem_strndup(text, length);
    struct proxy *proxy = NULL;
    if (proxy_parse(url, &proxy, NULL) == 0) {
        if (proxy->port < 1 || proxy->port > 65535 || proxy->host[0] == '\0')
            abort();
        if (line != NULL) {
            enum proxy_state bytes = talk(proxy, line + 1, size - length - 1, 1);
            enum proxy_state whole = talk(proxy, line + 1, size - length - 1, size);
            /* more than was asked for is refused in one piece, and not seen byte by byte */
            if (whole == PROXY_OPEN && bytes != PROXY_OPEN)
                abort();
        }
        proxy_unref(proxy);
    }
    free(url);
    return 0;
}
