/* links: pg */
/* A run of messages, each behind its length in two bytes, decoded by one decoder that keeps relations. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pg/pg_stream.h"

static size_t touch_tuple(const struct pgoutput_tuple *tuple)
{
    size_t sum = 0;
    for (int i = 0; i < tuple->count; i++)
        for (uint32_t n = 0; n < tuple->values[i].length; n++)
            sum += (unsigned char)tuple->values[i].data[n];
    return sum;
}

static size_t touch(const struct pgoutput_message *m)
{
    size_t sum = touch_tuple(&m->old_tuple) + touch_tuple(&m->new_tuple);
    if (m->relation != NULL) {
        sum += strlen(m->relation->schema) + strlen(m->relation->name);
        for (int i = 0; i < m->relation->column_count; i++)
            sum += strlen(m->relation->columns[i].name);
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pgoutput *decoder = pgoutput_new();
    size_t sum = 0;
    while (size >= 2) {
        size_t length = (size_t)data[0] << 8 | data[1];
        data += 2;
        size -= 2;
        if (length > size)
            length = size;
        /* an allocation of its own, so that one byte too many is seen */
        char *message = mem_alloc(length > 0 ? length : 1);
        memcpy(message, data, length);
        struct pgoutput_message m;
        struct err err;
        if (pgoutput_decode(decoder, message, length, &m, &err) == 0)
            sum += touch(&m);
        free(message);
        data += length;
        size -= length;
    }
    pgoutput_free(decoder);
    if (sum == SIZE_MAX)
        abort(); /* cannot be: only keeps the reads from being optimised away */
    return 0;
}
