/*
 * local_ensure: the ensure operation and the worker jobs it runs. Not for other files.
 */
#ifndef RUNTIME_LOCAL_ENSURE_H
#define RUNTIME_LOCAL_ENSURE_H

#include "runtime/local.h"

struct ensure {
    struct local_op op; /* first */
    struct sm sm;
    struct work work;
    struct loop_timer timer;
    struct local_halt halt;
    struct local_login login;
    struct local_contact contact; /* a member's, instead of login */
    struct process *process;      /* that runs now: --version or initdb */
    struct local_server *server;

    /* the spec, copied */
    char *database, *shard, *owner, *owner_password;
    char **settings;
    uint64_t min_free_bytes;
    bool must_exist;
    bool member, primary;
    char *password; /* a member's */

    /* found out on the way */
    struct local_user user;
    struct local_record record;
    bool exists;   /* an instance that was whole before */
    bool leftover; /* something of an earlier, interrupted creation */
    char *path;    /* <directory>/<name> */
    char *data_path;
    char new_password[LOCAL_PASSWORD_LENGTH + 1];
    char new_token[LOCAL_TOKEN_LENGTH + 1];
    int shard_major; /* of PostgreSQL in other members of its shard; 0 = there are none */
    const struct local_binary *binary;
    int probing;       /* index of the program whose version is asked */
    bool plain_locale; /* C.UTF-8 was refused */
    int orphans;
    bool port_taken;
    int taken_port; /* which of them */
    int tries;      /* of what the present state repeats */
    int ports_tried;
    char reason[256]; /* last words of the server in its log */

    struct err err;     /* of the operation */
    struct err job_err; /* of the job that runs */
    runtime_instance_cb cb;
    void *data;
};

/* Worker: the user, instance.json, what is left of an interrupted creation. */
void ensure_look(struct work *work);
/* Worker: ends processes of an interrupted creation (orphans = how many there were), then deletes its files.
 */
void ensure_wipe(struct work *work);
/* Worker: checks disk and path, picks the port, makes the directory with its mark, passwords. */
void ensure_prepare(struct work *work);
/* Worker: configuration files, log, stale lock file; port_taken and orphans tell what forbids the start. */
void ensure_configure(struct work *work);
/* Worker: another port for an instance that was never used. */
void ensure_repick(struct work *work);
/* Worker: the SCRAM verifier of the owner's password, if it is new. */
void ensure_verifier(struct work *work);
/* Worker: a new password of the owner, or of a member's shard, then instance.json says "ready". */
void ensure_commit(struct work *work);
/* Worker: what the log says about the server's end. */
void ensure_autopsy(struct work *work);

#endif
