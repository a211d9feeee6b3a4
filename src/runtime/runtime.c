#include "runtime/runtime.h"

#include "base/text.h"

static int name_check(const char *name, struct err *err)
{
    if (name != NULL && text_is_name(name))
        return 0;
    return err_set(
        err, ERRC_INVALID,
        "\"%s\" cannot name an instance: use a-z, 0-9 and '-', at most 63, a letter or digit at both ends",
        name != NULL ? name : "");
}

int runtime_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                   struct err *err)
{
    int rc = name_check(spec->name, err);
    if (rc == 0 && spec->member && !rt->backend->members)
        rc = err_set(err, ERRC_UNSUPPORTED, "instance %s: the %s runtime makes one instance for each shard",
                     spec->name, rt->backend->kind);
    if (rc == 0 && spec->member && !rt->backend->passwords &&
        (spec->password == NULL || spec->password[0] == '\0'))
        rc = err_set(err, ERRC_INVALID, "instance %s: a member needs the password of its shard", spec->name);
    return rc != 0 ? rc : rt->backend->ensure(rt, spec, cb, data, err);
}

bool runtime_instance_runs(const struct runtime_instance *instance)
{
    return instance->member ? instance->agent_pid != 0 : instance->pid != 0;
}

int runtime_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    int rc = name_check(name, err);
    return rc != 0 ? rc : rt->backend->stop(rt, name, cb, data, err);
}

int runtime_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err)
{
    int rc = name_check(name, err);
    return rc != 0 ? rc : rt->backend->remove(rt, name, cb, data, err);
}

int runtime_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err)
{
    return rt->backend->list(rt, cb, data, err);
}

int runtime_space(struct runtime *rt, const char *name, runtime_space_cb cb, void *data, struct err *err)
{
    int rc = name_check(name, err);
    if (rc == 0 && rt->backend->space == NULL)
        rc = err_set(err, ERRC_UNSUPPORTED, "the %s runtime does not see its instances' disks",
                     rt->backend->kind);
    return rc != 0 ? rc : rt->backend->space(rt, name, cb, data, err);
}

void runtime_mark(struct runtime *rt, const char *name, bool primary, uint64_t term)
{
    if (rt->backend->mark != NULL && name_check(name, NULL) == 0)
        rt->backend->mark(rt, name, primary, term);
}

enum runtime_place runtime_place(struct runtime *rt, const char *name)
{
    return rt->backend->place != NULL && name_check(name, NULL) == 0 ? rt->backend->place(rt, name)
                                                                     : RUNTIME_PLACE_UNKNOWN;
}

void runtime_on_move(struct runtime *rt, void (*moved)(const char *name, void *data), void *data)
{
    rt->moved = moved;
    rt->moved_data = data;
}

int runtime_renew(struct runtime *rt, const char *name, bool looks, runtime_renew_cb cb, void *data,
                  struct err *err)
{
    int rc = name_check(name, err);
    if (rc == 0 && rt->backend->renew == NULL)
        rc = err_set(err, ERRC_UNSUPPORTED, "the %s runtime restarts its instances by itself",
                     rt->backend->kind);
    return rc != 0 ? rc : rt->backend->renew(rt, name, looks, cb, data, err);
}

void runtime_close(struct runtime *rt, void (*closed)(void *data), void *data)
{
    rt->backend->close(rt, closed, data);
}

int runtime_offer(struct runtime *rt, runtime_offer_cb cb, void *data, struct err *err)
{
    if (rt->backend->offer == NULL)
        return err_set(err, ERRC_UNSUPPORTED, "runtime %s cannot tell beforehand", rt->backend->kind);
    return rt->backend->offer(rt, cb, data, err);
}
