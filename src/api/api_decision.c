#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/text.h"

static const char *given(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

void api_print_decision(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct api_decision *d)
{
    json_uint64(doc, object, "number", d->number);
    json_time(doc, object, "time", d->at_us);
    json_text(doc, object, "database", d->database);
    json_text(doc, object, "shard", d->shard);
    json_text(doc, object, "target", given(d->target));
    json_text(doc, object, "kind", d->kind);
    yyjson_mut_obj_add_bool(doc, object, "acted", d->act);
    yyjson_mut_obj_add_int(doc, object, "rule", d->rule);
    json_text(doc, object, "rule_name", d->rule_name);
    json_text(doc, object, "sentence", d->sentence);
    json_text(doc, object, "operation", given(d->operation));
}

static bool decision_at(const struct api *api, unsigned n, struct api_decision *ret)
{
    const struct api_services *s = &api->services;
    memset(ret, 0, sizeof *ret);
    return s->decision != NULL && s->decision(s->data, n, ret);
}

bool api_last_decision(const struct api *api, const char *database, const char *shard,
                       struct api_decision *ret)
{
    for (unsigned n = 0; decision_at(api, n, ret); n++)
        if (strcmp(ret->database, database) == 0 && strcmp(ret->shard, shard) == 0)
            return true;
    return false;
}

struct filter {
    char database[API_FILTER_SIZE], shard[API_FILTER_SIZE];
    bool by_database, by_shard;
    uint64_t below; /* number */
};

static bool filter_get(struct api_call *call, const struct api_page *page, struct filter *f)
{
    if (!api_query_name(call, "database", f->database, &f->by_database) ||
        !api_query_name(call, "shard", f->shard, &f->by_shard))
        return false;
    f->below = UINT64_MAX;
    if (page->resumed && !text_to_uint64(page->after, &f->below)) {
        http_problem(call->ex, 400, "invalid", "cursor is not one of this list");
        return false;
    }
    return true;
}

static bool filter_fits(const struct filter *f, const struct api_decision *d)
{
    return d->number < f->below && (!f->by_database || strcmp(d->database, f->database) == 0) &&
           (!f->by_shard || strcmp(d->shard, f->shard) == 0);
}

void api_get_decisions(struct api_call *call)
{
    struct api_page page;
    struct filter filter;
    struct api_decision d;
    char last[24] = "";
    unsigned printed = 0;
    bool more = false;
    if (!api_page_get(call, "decisions", &page) || !filter_get(call, &page, &filter))
        return;
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    yyjson_mut_val *items = yyjson_mut_obj_add_arr(doc, root, "items");
    for (unsigned n = 0; !more && decision_at(call->api, n, &d); n++) {
        if (!filter_fits(&filter, &d))
            continue;
        more = printed == page.limit;
        if (!more) {
            api_print_decision(doc, yyjson_mut_arr_add_obj(doc, items), &d);
            snprintf(last, sizeof last, "%" PRIu64, d.number);
            printed++;
        }
    }
    api_page_next(doc, root, "decisions", more ? last : NULL);
    api_respond(call, 200, doc);
}
