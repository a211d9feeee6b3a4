#include "metrics/prometheus_answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

typedef void (*each_cb)(const struct prometheus_sample *sample, void *data);

const char *prometheus_label(const struct prometheus_sample *sample, const char *name)
{
    for (size_t i = 0; i < sample->label_count; i++)
        if (strcmp(sample->labels[i].name, name) == 0)
            return sample->labels[i].value;
    return NULL;
}

/* "1.5", "NaN", "+Inf": always in quotes. */
static bool number_of(yyjson_val *value, double *ret)
{
    const char *text = yyjson_get_str(value);
    char *end;
    if (text == NULL || text[0] == '\0')
        return false;
    *ret = strtod(text, &end);
    return *end == '\0';
}

static bool take_value(yyjson_val *pair, struct prometheus_sample *sample)
{
    yyjson_val *time = yyjson_arr_get(pair, 0);
    if (!yyjson_is_num(time) || !number_of(yyjson_arr_get(pair, 1), &sample->value))
        return false;
    sample->time_s = yyjson_get_num(time);
    return true;
}

static int odd(struct err *err, const char *what)
{
    return err_set(err, ERRC_PROTOCOL, "the answer is not Prometheus' to an instant query: %s", what);
}

static int take_sample(yyjson_val *item, each_cb each, void *data, struct err *err)
{
    struct prometheus_label labels[PROMETHEUS_LABELS_MAX];
    struct prometheus_sample sample = {.labels = labels};
    size_t i, max;
    yyjson_val *name, *value;
    if (!take_value(yyjson_obj_get(item, "value"), &sample))
        return odd(err, "a sample has no value");
    yyjson_val *metric = yyjson_obj_get(item, "metric");
    if (metric == NULL)
        return odd(err, "a sample has no labels");
    yyjson_obj_foreach(metric, i, max, name, value)
    {
        if (sample.label_count < PROMETHEUS_LABELS_MAX && yyjson_is_str(value))
            labels[sample.label_count++] =
                (struct prometheus_label){yyjson_get_str(name), yyjson_get_str(value)};
    }
    each(&sample, data);
    return 0;
}

static int take_vector(yyjson_val *result, each_cb each, void *data, struct err *err)
{
    size_t i, max;
    yyjson_val *item;
    if (!yyjson_is_arr(result))
        return odd(err, "there is no list");
    if (yyjson_arr_size(result) > PROMETHEUS_SAMPLES_MAX)
        return err_set(err, ERRC_LIMIT, "%zu samples, more than %d: make the query narrower",
                       yyjson_arr_size(result), PROMETHEUS_SAMPLES_MAX);
    yyjson_arr_foreach(result, i, max, item)
    {
        int rc = take_sample(item, each, data, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int take_data(yyjson_val *root, each_cb each, void *data, struct err *err)
{
    yyjson_val *inner = yyjson_obj_get(root, "data"), *result = yyjson_obj_get(inner, "result");
    const char *type = yyjson_get_str(yyjson_obj_get(inner, "resultType"));
    struct prometheus_sample scalar = {0};
    if (type != NULL && strcmp(type, "vector") == 0)
        return take_vector(result, each, data, err);
    if (type == NULL || strcmp(type, "scalar") != 0 || !take_value(result, &scalar))
        return odd(err, "neither a vector nor a scalar");
    each(&scalar, data);
    return 0;
}

/* bad_data is the query's fault; timeout, canceled, execution, internal and unavailable are not. */
static int take_error(yyjson_val *root, struct err *err)
{
    const char *type = yyjson_get_str(yyjson_obj_get(root, "errorType"));
    const char *text = yyjson_get_str(yyjson_obj_get(root, "error"));
    bool bad = type != NULL && (strcmp(type, "bad_data") == 0 || strcmp(type, "execution") == 0);
    return err_set(err, bad ? ERRC_INVALID : ERRC_UNAVAILABLE, "%.40s: %.300s", type != NULL ? type : "error",
                   text != NULL ? text : "");
}

int prometheus_answer_parse(const char *body, size_t length, each_cb each, void *data, struct err *err)
{
    yyjson_doc *doc = yyjson_read(body, length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    const char *status = yyjson_get_str(yyjson_obj_get(root, "status"));
    int rc;
    if (status != NULL && strcmp(status, "success") == 0)
        rc = take_data(root, each, data, err);
    else if (status != NULL && strcmp(status, "error") == 0)
        rc = take_error(root, err);
    else
        rc = odd(err, "no JSON with a status");
    yyjson_doc_free(doc);
    return rc;
}
