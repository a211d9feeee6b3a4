#include "discovery/application_object.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"

#define NAME_MAX_BYTES 253
#define LITERAL_MAX    4096

static const char *text_of(yyjson_val *value)
{
    const char *text = yyjson_get_str(value);
    size_t length = yyjson_get_len(value);
    return text != NULL && length > 0 && length <= NAME_MAX_BYTES && strlen(text) == length ? text : NULL;
}

static const char *member(yyjson_val *object, const char *name)
{
    return text_of(yyjson_obj_get(object, name));
}

static const char *literal_of(yyjson_val *variable)
{
    yyjson_val *value = yyjson_obj_get(variable, "value");
    const char *text = yyjson_get_str(value);
    return text != NULL && yyjson_get_len(value) <= LITERAL_MAX && strlen(text) == yyjson_get_len(value)
               ? text
               : NULL;
}

static struct application_variable *add(struct application_object *o, const char *container, const char *name)
{
    if (o->variable_count == APPLICATION_VARIABLES_MAX)
        return NULL;
    o->variables = mem_resize(o->variables, o->variable_count + 1, sizeof *o->variables);
    struct application_variable *v = &o->variables[o->variable_count++];
    *v = (struct application_variable){.container = mem_strdup(container), .name = mem_strdup(name)};
    return v;
}

/* A configMapKeyRef, secretKeyRef, configMapRef or secretRef. */
static void add_reference(struct application_object *o, const char *container, const char *name,
                          enum variable_from from, yyjson_val *reference, const char *key)
{
    const char *object = member(reference, "name");
    struct application_variable *v = object != NULL ? add(o, container, name) : NULL;
    if (v == NULL)
        return;
    v->from = from;
    v->object = mem_strdup(object);
    v->key = mem_strdup(key);
    v->optional = yyjson_get_bool(yyjson_obj_get(reference, "optional"));
}

static bool is_url(const char *text)
{
    struct env_target target;
    bool url = strstr(text, "://") != NULL && env_url_parse(text, &target);
    if (url)
        env_target_free(&target);
    return url;
}

/* Whether a literal that is kept is made of this variable: "$(DB_HOST)". */
static bool is_referred_to(yyjson_val *env, const char *name)
{
    size_t i, max, prefix;
    yyjson_val *variable;
    char *reference = mem_printf("$(%s)", name);
    bool found = false;
    yyjson_arr_foreach(env, i, max, variable)
    {
        const char *other = member(variable, "name"), *text = literal_of(variable);
        if (other != NULL && text != NULL && (env_role_of(other, &prefix) != ENV_NONE || is_url(text)))
            found = found || strstr(text, reference) != NULL;
    }
    free(reference);
    return found;
}

static void add_variable(struct application_object *o, const char *container, yyjson_val *env,
                         yyjson_val *variable)
{
    const char *name = member(variable, "name"), *text = literal_of(variable);
    yyjson_val *from = yyjson_obj_get(variable, "valueFrom");
    yyjson_val *map = yyjson_obj_get(from, "configMapKeyRef"), *secret = yyjson_obj_get(from, "secretKeyRef");
    size_t prefix;
    if (name == NULL || env_is_secret_name(name))
        return;
    enum env_role role = env_role_of(name, &prefix);
    if (role == ENV_NONE && text != NULL && is_url(text))
        role = ENV_URL;
    if (role == ENV_NONE && !is_referred_to(env, name))
        return;
    if (map != NULL)
        add_reference(o, container, name, FROM_CONFIG_MAP, map, member(map, "key"));
    else if (secret != NULL)
        add_reference(o, container, name, FROM_SECRET, secret, member(secret, "key"));
    char *kept = text != NULL ? env_keep(role != ENV_NONE ? role : ENV_HOST, text) : NULL;
    struct application_variable *v = kept != NULL ? add(o, container, name) : NULL;
    if (v != NULL)
        v->text = kept;
    else
        mem_wipe_free(kept);
}

static void add_container(struct application_object *o, yyjson_val *json)
{
    const char *container = member(json, "name");
    yyjson_val *env = yyjson_obj_get(json, "env"), *item;
    size_t i, max;
    if (container == NULL)
        return;
    yyjson_arr_foreach(yyjson_obj_get(json, "envFrom"), i, max, item)
    {
        yyjson_val *map = yyjson_obj_get(item, "configMapRef"), *secret = yyjson_obj_get(item, "secretRef");
        add_reference(o, container, NULL, map != NULL ? FROM_CONFIG_MAP : FROM_SECRET,
                      map != NULL ? map : secret, member(item, "prefix"));
    }
    yyjson_arr_foreach(env, i, max, item)
    {
        if (i < APPLICATION_VARIABLES_MAX)
            add_variable(o, container, env, item);
    }
}

static yyjson_val *pod_spec(const char *kind, yyjson_val *json)
{
    yyjson_val *spec = yyjson_obj_get(json, "spec");
    if (strcmp(kind, "CronJob") == 0)
        spec = yyjson_obj_get(yyjson_obj_get(spec, "jobTemplate"), "spec");
    return yyjson_obj_get(yyjson_obj_get(spec, "template"), "spec");
}

struct application_object *application_object_make(const char *kind, yyjson_val *json)
{
    static const char *const lists[] = {"initContainers", "containers"};
    yyjson_val *metadata = yyjson_obj_get(json, "metadata"), *pod = pod_spec(kind, json), *container;
    const char *name = member(metadata, "name"), *name_space = member(metadata, "namespace");
    size_t i, max;
    if (name == NULL || name_space == NULL)
        return NULL;
    struct application_object *o = mem_zalloc(sizeof *o);
    o->kind = kind;
    o->name = mem_strdup(name);
    o->name_space = mem_strdup(name_space);
    for (size_t l = 0; l < 2; l++)
        yyjson_arr_foreach(yyjson_obj_get(pod, lists[l]), i, max, container)
        {
            add_container(o, container);
        }
    if (o->variable_count > 0)
        return o;
    application_object_free(o);
    return NULL;
}

void application_object_free(struct application_object *o)
{
    for (size_t i = 0; o != NULL && i < o->variable_count; i++) {
        struct application_variable *v = &o->variables[i];
        free(v->container);
        free(v->name);
        mem_wipe_free(v->text);
        free(v->object);
        free(v->key);
    }
    if (o == NULL)
        return;
    free(o->variables);
    free(o->name);
    free(o->name_space);
    free(o);
}
