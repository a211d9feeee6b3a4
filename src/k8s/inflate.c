#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/mem.h"
#include "k8s/inflate.h"

#define PIECE 65536u

struct inflate {
    z_stream z;
    bool between; /* members */
    unsigned char out[PIECE];
};

struct inflate *inflate_new(void)
{
    struct inflate *z = mem_zalloc(sizeof *z);
    if (inflateInit2(&z->z, 15 + 16) != Z_OK) /* 32 KiB window, gzip only */
        abort();                              /* only for want of memory */
    z->between = true;
    return z;
}

void inflate_free(struct inflate *z)
{
    if (z != NULL) {
        (void)inflateEnd(&z->z);
        free(z);
    }
}

bool inflate_complete(const struct inflate *z)
{
    return z->between;
}

int inflate_feed(struct inflate *z, const char *bytes, size_t length,
                 void (*cb)(const char *bytes, size_t length, void *data), void *data, struct err *err)
{
    z->z.next_in = (z_const Bytef *)(uintptr_t)bytes;
    z->z.avail_in = (uInt)length;
    while (z->z.avail_in > 0 || z->z.avail_out == 0) {
        if (z->between && z->z.avail_in > 0) {
            (void)inflateReset(&z->z);
            z->between = false;
        } else if (z->between) {
            break;
        }
        z->z.next_out = z->out;
        z->z.avail_out = PIECE;
        int rc = inflate(&z->z, Z_NO_FLUSH);
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
            return err_set(err, ERRC_PROTOCOL, "the answer is not the gzip it claims to be: %s",
                           z->z.msg != NULL ? z->z.msg : "damaged");
        if (z->z.avail_out < PIECE)
            cb((const char *)z->out, PIECE - z->z.avail_out, data);
        z->between = rc == Z_STREAM_END;
        if (rc == Z_BUF_ERROR)
            break;
    }
    return 0;
}
