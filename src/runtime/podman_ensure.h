/*
 * podman_ensure: the ensure operation and the worker jobs it runs. Not for other files.
 */
#ifndef RUNTIME_PODMAN_ENSURE_H
#define RUNTIME_PODMAN_ENSURE_H

#include "base/sm.h"
#include "runtime/kube_login.h"
#include "runtime/local.h"
#include "runtime/podman_impl.h"

struct podman_ensure {
    struct podman_op op; /* first */
    struct sm sm;
    struct work work;
    struct loop_timer timer;
    struct podman_wipe wipe;
    struct kube_login login;

    /* the spec, copied */
    char *database, *shard, *owner, *owner_password;
    char **settings;
    uint64_t min_free_bytes;
    bool must_exist;

    /* found out on the way */
    struct local_record record;
    bool exists;   /* an instance that was whole before */
    bool leftover; /* something of an earlier, interrupted creation */
    char password[LOCAL_PASSWORD_LENGTH + 1];
    char volume_path[512]; /* of the volume on this machine, "" = not to be seen */
    bool login_over;       /* its end waits for the answer to a request */
    bool first_look;       /* at the container, while the login waits */
    int64_t restarts;      /* at that look */

    struct err err;       /* of the operation */
    struct err job_err;   /* of the job that runs */
    struct err login_err; /* why the login ended */
    struct err died;      /* the container does not run any more */
    runtime_instance_cb cb;
    void *data;
};

/* Worker: what is known of the instance, and what is left of an interrupted creation. */
void podman_ensure_look(struct work *work);
/* Worker: picks the port, makes the directory with its mark and the password. */
void podman_ensure_prepare(struct work *work);
/* Worker: whether the volume's disk has room, as far as it can be seen from here. */
void podman_ensure_room(struct work *work);
/* Worker: instance.json says "ready". */
void podman_ensure_commit(struct work *work);

#endif
