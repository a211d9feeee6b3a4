#include <stdlib.h>
#include <string.h>
#include <yaml.h>
#include <yyjson.h>

#include "base/text.h"
#include "k8s/yaml_json.h"

#define DEPTH_MAX 100

struct reader {
    yaml_parser_t yaml;
    yaml_event_t event;
    const char *name;
    yyjson_mut_doc *doc;
    int depth;
    struct err *err;
};

static int fault(struct reader *r, const char *what)
{
    return err_set(r->err, ERRC_INVALID, "%s:%zu:%zu: %s", r->name, r->event.start_mark.line + 1,
                   r->event.start_mark.column + 1, what);
}

static int next(struct reader *r)
{
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->yaml, &r->event))
        return 0;
    return err_set(r->err, ERRC_INVALID, "%s:%zu:%zu: %s", r->name, r->yaml.problem_mark.line + 1,
                   r->yaml.problem_mark.column + 1, r->yaml.problem != NULL ? r->yaml.problem : "not YAML");
}

static yyjson_mut_val *plain(struct reader *r, const char *text, size_t length)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    static const char *const trues[] = {"true", "True", "TRUE"};
    static const char *const falses[] = {"false", "False", "FALSE"};
    int64_t integer;
    double real;
    for (size_t i = 0; i < sizeof nulls / sizeof nulls[0]; i++) {
        if (strcmp(text, nulls[i]) == 0)
            return yyjson_mut_null(r->doc);
    }
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(text, trues[i]) == 0)
            return yyjson_mut_true(r->doc);
        if (strcmp(text, falses[i]) == 0)
            return yyjson_mut_false(r->doc);
    }
    bool digits_only = text[strspn(text, "0123456789")] == '\0';
    bool octal_like = digits_only && text[0] == '0' && text[1] != '\0';
    if (!octal_like && text_to_int64(text, &integer))
        return yyjson_mut_sint(r->doc, integer);
    if (!digits_only && text[strspn(text, "0123456789+-.eE")] == '\0' && text_to_double(text, &real))
        return yyjson_mut_real(r->doc, real);
    return yyjson_mut_strncpy(r->doc, text, length);
}

static int scalar(struct reader *r, yyjson_mut_val **ret)
{
    const char *text = (const char *)r->event.data.scalar.value;
    size_t length = r->event.data.scalar.length;
    const char *tag = (const char *)r->event.data.scalar.tag;
    if (memchr(text, '\0', length) != NULL)
        return fault(r, "a NUL byte");
    bool string = tag != NULL && strcmp(tag, YAML_STR_TAG) == 0;
    if (tag != NULL && !string && strncmp(tag, "tag:yaml.org,2002:", 18) != 0)
        return fault(r, "an unknown tag");
    if (string || r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        *ret = yyjson_mut_strncpy(r->doc, text, length);
    else
        *ret = plain(r, text, length);
    return 0;
}

static int value(struct reader *r, yyjson_mut_val **ret);

static int sequence(struct reader *r, yyjson_mut_val **ret)
{
    *ret = yyjson_mut_arr(r->doc);
    for (;;) {
        yyjson_mut_val *item = NULL;
        int rc = next(r);
        if (rc != 0 || r->event.type == YAML_SEQUENCE_END_EVENT)
            return rc;
        rc = value(r, &item);
        if (rc != 0)
            return rc;
        (void)yyjson_mut_arr_append(*ret, item);
    }
}

static int mapping(struct reader *r, yyjson_mut_val **ret)
{
    *ret = yyjson_mut_obj(r->doc);
    for (;;) {
        yyjson_mut_val *item = NULL;
        int rc = next(r);
        if (rc != 0 || r->event.type == YAML_MAPPING_END_EVENT)
            return rc;
        if (r->event.type != YAML_SCALAR_EVENT)
            return fault(r, "a key must be a plain text");
        const char *text = (const char *)r->event.data.scalar.value;
        if (strcmp(text, "<<") == 0)
            return fault(r, "merge keys are not supported");
        if (yyjson_mut_obj_get(*ret, text) != NULL)
            return fault(r, "this key is given twice");
        yyjson_mut_val *key = yyjson_mut_strcpy(r->doc, text);
        if ((rc = next(r)) != 0 || (rc = value(r, &item)) != 0)
            return rc;
        (void)yyjson_mut_obj_add(*ret, key, item);
    }
}

/* The value that the present event begins. */
static int value(struct reader *r, yyjson_mut_val **ret)
{
    int rc;
    if (r->depth == DEPTH_MAX)
        return fault(r, "nested too deeply");
    r->depth++;
    switch (r->event.type) {
    case YAML_SCALAR_EVENT:
        rc = r->event.data.scalar.anchor != NULL ? fault(r, "anchors are not supported") : scalar(r, ret);
        break;
    case YAML_SEQUENCE_START_EVENT:
        rc = r->event.data.sequence_start.anchor != NULL ? fault(r, "anchors are not supported")
                                                         : sequence(r, ret);
        break;
    case YAML_MAPPING_START_EVENT:
        rc = r->event.data.mapping_start.anchor != NULL ? fault(r, "anchors are not supported")
                                                        : mapping(r, ret);
        break;
    default:
        rc = fault(r, "aliases are not supported");
    }
    r->depth--;
    return rc;
}

static int document(struct reader *r, yaml_json_cb cb, void *data)
{
    yyjson_mut_val *root = NULL;
    r->doc = yyjson_mut_doc_new(NULL);
    int rc = next(r);
    if (rc == 0)
        rc = value(r, &root);
    if (rc == 0)
        rc = next(r); /* its end */
    if (rc == 0 && !yyjson_mut_is_null(root)) {
        yyjson_mut_doc_set_root(r->doc, root);
        rc = cb(r->doc, root, data, r->err);
    }
    yyjson_mut_doc_free(r->doc);
    r->doc = NULL;
    return rc;
}

int yaml_json_read(const char *text, size_t length, const char *name, yaml_json_cb cb, void *data,
                   struct err *err)
{
    struct reader r = {.name = name, .err = err};
    if (!yaml_parser_initialize(&r.yaml))
        return err_set(err, ERRC_INTERNAL, "cannot start the YAML parser");
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text, length);
    int rc = next(&r);
    while (rc == 0 && r.event.type != YAML_STREAM_END_EVENT) {
        if (r.event.type == YAML_DOCUMENT_START_EVENT)
            rc = document(&r, cb, data);
        if (rc == 0)
            rc = next(&r);
    }
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.yaml);
    return rc;
}
