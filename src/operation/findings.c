#include "operation/findings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#define ROOM_FOR_LAST 256 /* of the limit: what the one that counts the others takes */
#define NOT_SHOWN     "findings"

static bool is_error(yyjson_val *item)
{
    const char *severity = yyjson_get_str(yyjson_obj_get(item, "severity"));
    return severity == NULL || strcmp(severity, FINDING_ERROR) == 0; /* older ones had none */
}

static const char *member(yyjson_val *item, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(item, name));
    return text != NULL ? text : "";
}

unsigned findings_errors(const struct buf *list, char *first, size_t size)
{
    yyjson_doc *doc = list->length > 0 ? yyjson_read(buf_text(list), list->length, 0) : NULL;
    yyjson_val *item;
    unsigned count = 0;
    size_t i, max;
    yyjson_arr_foreach(yyjson_doc_get_root(doc), i, max, item)
    {
        if (!is_error(item))
            continue;
        if (count++ == 0 && first != NULL)
            snprintf(first, size, "%s: %s (remedy: %s)", member(item, "subject"), member(item, "finding"),
                     member(item, "remedy"));
    }
    yyjson_doc_free(doc);
    return count;
}

static bool is_there(yyjson_val *root, const struct finding *one)
{
    yyjson_val *item;
    size_t i, max;
    yyjson_arr_foreach(root, i, max, item)
    {
        if (strcmp(member(item, "severity"), one->severity) == 0 &&
            strcmp(member(item, "subject"), one->subject) == 0 &&
            strcmp(member(item, "finding"), one->finding) == 0 &&
            strcmp(member(item, "remedy"), one->remedy) == 0)
            return true;
    }
    return false;
}

void findings_join(struct buf *list, const struct buf *more)
{
    yyjson_doc *doc = more->length > 0 ? yyjson_read(buf_text(more), more->length, 0) : NULL;
    yyjson_val *item;
    size_t i, max;
    yyjson_arr_foreach(yyjson_doc_get_root(doc), i, max, item)
    {
        const struct finding one = {member(item, "severity"), member(item, "subject"),
                                    member(item, "finding"), member(item, "remedy")};
        findings_add(list, &one);
    }
    yyjson_doc_free(doc);
}

static yyjson_mut_val *object(yyjson_mut_doc *doc, const struct finding *one)
{
    yyjson_mut_val *item = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_strcpy(doc, item, "severity", one->severity);
    yyjson_mut_obj_add_strcpy(doc, item, "subject", one->subject);
    yyjson_mut_obj_add_strcpy(doc, item, "finding", one->finding);
    yyjson_mut_obj_add_strcpy(doc, item, "remedy", one->remedy);
    return item;
}

/* How many of the last one's number were not shown before; that one is taken out. */
static uint64_t take_not_shown(yyjson_mut_val *list)
{
    yyjson_mut_val *last = yyjson_mut_arr_get_last(list);
    const char *subject = yyjson_mut_get_str(yyjson_mut_obj_get(last, "subject"));
    if (subject == NULL || strcmp(subject, NOT_SHOWN) != 0)
        return 0;
    uint64_t count = yyjson_mut_get_uint(yyjson_mut_obj_get(last, "count"));
    yyjson_mut_arr_remove_last(list);
    return count;
}

static void add_not_shown(yyjson_mut_doc *doc, yyjson_mut_val *list, uint64_t count)
{
    char text[48];
    snprintf(text, sizeof text, "%llu more are not shown", (unsigned long long)count);
    const struct finding rest = {FINDING_WARNING, NOT_SHOWN, text, "mend these and check again"};
    yyjson_mut_val *item = object(doc, &rest);
    yyjson_mut_obj_add_uint(doc, item, "count", count);
    yyjson_mut_arr_append(list, item);
}

/* not_shown: how many were left out before. */
static void write_list(yyjson_mut_doc *doc, yyjson_mut_val *list, uint64_t not_shown, struct buf *out)
{
    size_t room = out->limit > ROOM_FOR_LAST ? out->limit - ROOM_FOR_LAST : 0;
    size_t length = 0;
    char *text;
    while ((text = yyjson_mut_write(doc, 0, &length)) != NULL && out->limit > 0 && length > room &&
           yyjson_mut_arr_size(list) > 0) {
        yyjson_mut_arr_remove_last(list);
        not_shown++;
        free(text);
    }
    if (not_shown > 0) {
        free(text);
        add_not_shown(doc, list, not_shown);
        text = yyjson_mut_write(doc, 0, &length);
    }
    buf_reset(out);
    if (text != NULL)
        buf_add(out, text, length);
    free(text);
}

void findings_add(struct buf *list, const struct finding *one)
{
    yyjson_doc *old = list->length > 0 ? yyjson_read(buf_text(list), list->length, 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(old);
    if (!is_there(root, one)) {
        yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
        yyjson_mut_val *all = root != NULL ? yyjson_val_mut_copy(doc, root) : yyjson_mut_arr(doc);
        uint64_t not_shown = take_not_shown(all);
        size_t at = strcmp(one->severity, FINDING_ERROR) == 0 ? findings_errors(list, NULL, 0)
                                                              : yyjson_mut_arr_size(all);
        yyjson_mut_doc_set_root(doc, all);
        yyjson_mut_arr_insert(all, object(doc, one), at);
        write_list(doc, all, not_shown, list);
        yyjson_mut_doc_free(doc);
    }
    yyjson_doc_free(old);
}
