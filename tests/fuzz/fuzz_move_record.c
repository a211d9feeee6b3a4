/* links: operation */
/* Whatever move_record_parse() accepts holds names and a range, and printing and parsing it again changes
 * nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "operation/move.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct move_record first, second;
    struct err err = {0};
    if (move_record_parse((const char *)data, size, &first, &err) != 0) {
        if (err.code != ERRC_CORRUPT || err.message[0] == '\0')
            abort();
        return 0;
    }
    char name[MOVE_NAME_SIZE];
    move_record_name(&first, name);
    if (!text_is_name(first.id) || !text_is_name(first.database) || first.range.lo > first.range.hi ||
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(name))
        abort();
    struct buf one = {0}, two = {0};
    move_record_print(&first, &one);
    if (move_record_parse(buf_text(&one), one.length, &second, NULL) != 0)
        abort();
    move_record_print(&second, &two);
    if (strcmp(buf_text(&one), buf_text(&two)) != 0)
        abort();
    buf_free(&one);
    buf_free(&two);
    move_record_free(&first);
    move_record_free(&second);
    return 0;
}
