#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "k8s/apply.h"

struct applying {
    char *what;
    k8s_answer_cb cb;
    void *data;
};

/* The server's lists of conflicts may repeat themselves (kubernetes#119141). */
static bool repeated(const struct k8s_status *s, unsigned at)
{
    for (unsigned i = 0; i < at; i++) {
        if (strcmp(s->causes[i].field, s->causes[at].field) == 0 &&
            strcmp(s->causes[i].message, s->causes[at].message) == 0)
            return true;
    }
    return false;
}

static void conflicts(const struct applying *a, const struct k8s_status *s, struct err *err)
{
    struct buf b = {.limit = ERR_MESSAGE_SIZE};
    for (unsigned i = 0; i < s->cause_count; i++) {
        if (strcmp(s->causes[i].reason, "FieldManagerConflict") == 0 && !repeated(s, i))
            (void)buf_printf(&b, "%s%s (%s)", b.length > 0 ? ", " : "", s->causes[i].field,
                             s->causes[i].message);
    }
    if (b.length > 0)
        (void)err_set(err, ERRC_CONFLICT, "%s: others own what we would change: %s", a->what, buf_text(&b));
    buf_free(&b);
}

static void answered(const struct k8s_answer *answer, void *data)
{
    struct applying *a = data;
    struct k8s_answer copy = *answer;
    struct err err = {0};
    if (answer->err != NULL) {
        err = *answer->err;
        if (answer->status != NULL && answer->status->fault == K8S_FAULT_CONFLICT)
            conflicts(a, answer->status, &err);
        copy.err = &err;
    }
    a->cb(&copy, a->data);
    free(a->what);
    free(a);
}

static char *body_of(struct yyjson_mut_val *object)
{
    yyjson_mut_val *metadata = yyjson_mut_obj_get(object, "metadata");
    if (yyjson_mut_obj_get(metadata, "managedFields") != NULL)
        (void)yyjson_mut_obj_remove_key(metadata, "managedFields");
    return yyjson_mut_val_write(object, 0,
                                NULL); /* plain UTF-8, "/" unescaped: the server reads it as YAML */
}

int k8s_apply_start(struct k8s_client *client, const struct k8s_apply *apply, k8s_answer_cb cb, void *data,
                    struct k8s_call **ret, struct err *err)
{
    char *body = body_of(apply->object);
    if (body == NULL)
        return err_set(err, ERRC_INVALID, "%s/%s: the object cannot be written as JSON", apply->collection,
                       apply->name);
    struct applying *a = mem_alloc(sizeof *a);
    *a = (struct applying){mem_printf("apply %s/%s", apply->collection, apply->name), cb, data};
    char *path =
        mem_printf("%s/%s%s%s", apply->collection, apply->name, apply->subresource != NULL ? "/" : "",
                   apply->subresource != NULL ? apply->subresource : "");
    char *query = mem_printf("fieldManager=%s&force=%s&fieldValidation=Strict", apply->manager,
                             apply->force ? "true" : "false");
    const struct k8s_request request = {
        .method = "PATCH",
        .path = path,
        .query = query,
        .content_type = "application/apply-patch+yaml",
        .body = body,
        .body_length = strlen(body),
    };
    int rc = k8s_call_start(client, &request, answered, a, ret, err);
    if (rc != 0) {
        free(a->what);
        free(a);
    }
    free(path);
    free(query);
    mem_wipe_free(body);
    return rc;
}
