#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/text.h"

static int digit_of(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

/* A cursor is "<kind>:<place>" in hexadecimal: opaque enough that nobody builds one by hand. */
static bool cursor_decode(const char *cursor, const char *kind, char out[API_CURSOR_SIZE])
{
    char text[API_CURSOR_SIZE];
    size_t length = strlen(cursor), prefix = strlen(kind);
    if (length % 2 != 0 || length / 2 >= sizeof text)
        return false;
    for (size_t i = 0; i < length / 2; i++) {
        int high = digit_of(cursor[2 * i]), low = digit_of(cursor[2 * i + 1]);
        if (high < 0 || low < 0 || high * 16 + low == 0)
            return false;
        text[i] = (char)(high * 16 + low);
    }
    text[length / 2] = '\0';
    if (strncmp(text, kind, prefix) != 0 || text[prefix] != ':')
        return false;
    snprintf(out, API_CURSOR_SIZE, "%s", text + prefix + 1);
    return true;
}

bool api_page_get(struct api_call *call, const char *kind, struct api_page *ret)
{
    char text[2 * API_CURSOR_SIZE];
    int64_t limit = API_PAGE_DEFAULT;
    memset(ret, 0, sizeof *ret);
    enum api_query got = api_query_get(call, "limit", text, sizeof text);
    if (got == QUERY_WRONG)
        return false;
    if (got == QUERY_GIVEN && (!text_to_int64(text, &limit) || limit < 1 || limit > API_PAGE_MAX)) {
        http_problem(call->ex, 400, "invalid", "limit is a number from 1 to %d", API_PAGE_MAX);
        return false;
    }
    ret->limit = (unsigned)limit;
    got = api_query_get(call, "cursor", text, sizeof text);
    if (got == QUERY_GIVEN && !cursor_decode(text, kind, ret->after)) {
        http_problem(call->ex, 400, "invalid",
                     "cursor is not one of this list: take it from \"next\" of the last page");
        return false;
    }
    ret->resumed = got == QUERY_GIVEN;
    return got != QUERY_WRONG;
}

void api_page_next(yyjson_mut_doc *doc, yyjson_mut_val *root, const char *kind, const char *last)
{
    char text[API_CURSOR_SIZE], cursor[2 * API_CURSOR_SIZE];
    if (last == NULL) {
        yyjson_mut_obj_add_null(doc, root, "next");
        return;
    }
    snprintf(text, sizeof text, "%s:%s", kind, last);
    for (size_t i = 0; i <= strlen(text); i++)
        snprintf(cursor + 2 * i, 3, "%02x", (unsigned char)text[i]);
    cursor[2 * strlen(text)] = '\0';
    yyjson_mut_obj_add_strcpy(doc, root, "next", cursor);
}

static int compare_named(const void *a, const void *b)
{
    return strcmp(((const struct api_named *)a)->name, ((const struct api_named *)b)->name);
}

void api_respond_named(struct api_call *call, const char *kind, struct api_named *items, size_t count,
                       api_named_cb print, const void *data)
{
    struct api_page page;
    if (!api_page_get(call, kind, &page))
        return;
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    yyjson_mut_val *array = yyjson_mut_obj_add_arr(doc, root, "items");
    size_t i = 0;
    unsigned printed = 0;
    if (count > 1)
        qsort(items, count, sizeof *items, compare_named);
    while (page.resumed && i < count && strcmp(items[i].name, page.after) <= 0)
        i++;
    for (; i < count && printed < page.limit; i++, printed++)
        print(call->api, doc, yyjson_mut_arr_add_obj(doc, array), items[i].item, data);
    api_page_next(doc, root, kind, i < count && printed > 0 ? items[i - 1].name : NULL);
    api_respond(call, 200, doc);
}
