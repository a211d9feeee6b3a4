/* links: manager */
/* What is taken as a configuration or a specification prints to a text that is taken again and prints alike.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "discovery/discovery.h"
#include "manager/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_config(const char *text, size_t size)
{
    struct config one, two;
    struct err err = {0};
    struct buf first = {0}, second = {0};
    const char *why = NULL;
    if (config_parse(text, size, "fuzz", NULL, NULL, &one, &err) != 0) {
        if (err.message[0] == '\0')
            abort();
        return;
    }
    config_print(&one, &first);
    if (config_parse(buf_text(&first), first.length, "fuzz", NULL, NULL, &two, NULL) != 0)
        abort();
    config_print(&two, &second);
    if (strcmp(buf_text(&first), buf_text(&second)) != 0 || !config_can_reload(&one, &two, &why))
        abort();
    struct discovery_entry *entries = NULL;
    int count = 0;
    config_entries(&one, &entries, &count);
    free(entries);
    buf_free(&first);
    buf_free(&second);
    config_free(&one);
    config_free(&two);
}

static void fuzz_spec(const char *text, size_t size)
{
    struct database_spec one, two;
    struct err err = {0};
    struct buf first = {0}, second = {0};
    if (database_spec_parse(text, size, "fuzz", NULL, &one, &err) != 0) {
        if (err.message[0] == '\0')
            abort();
        return;
    }
    database_spec_print(&one, &first);
    if (database_spec_parse(buf_text(&first), first.length, "fuzz", NULL, &two, NULL) != 0)
        abort();
    database_spec_print(&two, &second);
    if (strcmp(buf_text(&first), buf_text(&second)) != 0 || one.balance_given != two.balance_given)
        abort();
    buf_free(&first);
    buf_free(&second);
    database_spec_free(&one);
    database_spec_free(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_config((const char *)data, size);
    fuzz_spec((const char *)data, size);
    return 0;
}
