/*
 * kube_login: connects to a new server as its superuser until it lets us in, and makes the application's role
 * and database there.
 */
#ifndef RUNTIME_KUBE_LOGIN_H
#define RUNTIME_KUBE_LOGIN_H

#include "base/sm.h"
#include "loop/work.h"
#include "pg/pg_conn.h"

struct kube_login;
typedef void (*kube_login_cb)(struct kube_login *login, const struct err *err, void *data);

struct kube_login {
    /* filled in by the caller; the texts live until done */
    struct loop *loop;
    struct pg_target target;
    /* Tried when the target's is refused; if it is let in, the server gets the target's. May be NULL. */
    const char *previous_password;
    const char *database;
    const char *owner;
    const char *owner_password; /* NULL = none: the role's stays as it is */
    uint64_t deadline_ns;
    void (*progress)(const char *message, void *data); /* why it is not let in, each time; may be NULL */
    kube_login_cb done;
    void *data;

    struct sm sm;
    struct loop_timer timer;
    struct work work;
    struct pg_conn *conn;
    bool role_exists, database_exists, same;
    bool refused;   /* the next try is with the previous password */
    char *verifier; /* as the server has it, then the new one */
    struct err err, work_err;
};

/* done comes once, later; ERRC_TIMEOUT with the last refusal. */
void kube_login_start(struct kube_login *login);
void kube_login_cancel(struct kube_login *login); /* done comes with ERRC_CANCELED */

#endif
