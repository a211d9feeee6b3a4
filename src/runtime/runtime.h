/*
 * runtime: makes, starts, stops and removes PostgreSQL instances. Interface of local, kubernetes, cnpg,
 * podman.
 *
 * Every call is asynchronous, idempotent (ensuring what exists succeeds with the same result), and leaves
 * nothing behind when it fails before the instance could be used.
 */
#ifndef RUNTIME_RUNTIME_H
#define RUNTIME_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "fleet/fleet.h"
#include "loop/loop.h"

struct runtime;

struct runtime_spec {
    const char *name;     /* instance, "shop-s3-0" */
    const char *database; /* created if missing, owned by `owner` */
    const char *shard;
    const char *owner;           /* application role, created with LOGIN and the password below */
    const char *owner_password;  /* set when it differs from the last one; NULL = none given */
    const char *const *settings; /* "name = value" lines for postgresql.conf, NULL-terminated, or NULL */
    uint64_t min_free_bytes;     /* refuse when the disk has less; 0 = 512 MiB */
    bool must_exist;             /* ERRC_NOT_FOUND rather than make it: it held rows */
    /*
     * One of a shard's several instances. What is made is its agent, which then waits for orders: ensure
     * succeeds when the agent answers, with or without a server. Owner and database are made once there is a
     * primary, by ensuring that one with `primary`.
     */
    bool member;
    bool primary; /* a member that was ordered to be the primary: also waits until its server lets us in, and
                     makes owner and database there */
    unsigned instances;   /* a member's: that its shard has at least; 0 = as specified */
    bool removes;         /* ... and at most: nothing relies any more on those after them, which go, and their
                             data as those of removed ones do */
    const char *password; /* a member's: of the role "shardherd", the same for all members of the shard */
    /* The primary's: which password all agents of the shard that are heard have at hand for when the servers
     * get another one; NULL = none. */
    const char *next_password;
};

struct runtime_instance {
    const char *name;
    const char *database;
    const char *shard;
    struct instance_access access;
    const char *data_directory; /* local only, else NULL; a member's may not be there yet */
    int pid;                    /* postmaster, 0 = not running or unknown; in a container 1 */
    bool member;                /* access.agent_... is set */
    bool older; /* made for an older major version than is asked for now, and left at it (of runtime_ensure())
                 */
    int agent_pid; /* a member's, 0 = not running */
    int64_t
        due_us; /* wall clock: ensure it again then, a password or certificate is to be renewed; 0 = never */
};

/* Nothing is to be started again: a member runs when its agent does, which may have no server. */
bool runtime_instance_runs(const struct runtime_instance *instance);

typedef void (*runtime_instance_cb)(const struct err *err, const struct runtime_instance *instance,
                                    void *data);
typedef void (*runtime_done_cb)(const struct err *err, void *data);
typedef void (*runtime_list_cb)(const struct err *err, const struct runtime_instance *instances, int count,
                                void *data);

/* What a new instance would be made with. */
struct runtime_offer {
    const char *where;      /* for people: "/usr/lib/postgresql/15/bin" */
    int version;            /* 150018 */
    const char *encoding;   /* of its database: "UTF8" */
    const char *extensions; /* JSON object: name to the version that CREATE EXTENSION would take */
    const char *directory;  /* where it would lie */
    uint64_t free_bytes;    /* of that */
};

typedef void (*runtime_offer_cb)(const struct err *err, const struct runtime_offer *offer, void *data);
/* Bytes that the server may still write; the WAL has often a disk of its own. */
struct runtime_space {
    uint64_t data_free, wal_free;
};
typedef void (*runtime_space_cb)(const struct err *err, const struct runtime_space *space, void *data);

/* Whether an instance runs as it is to be, for runtimes that restart none of several by themselves. */
enum runtime_renewal {
    RUNTIME_CURRENT,  /* as specified, and it accepts connections */
    RUNTIME_OUTDATED, /* as an earlier specification said */
    RUNTIME_AWAY      /* it ends or begins just now, or that is not known yet: ask again */
};
typedef void (*runtime_renew_cb)(const struct err *err, enum runtime_renewal found, void *data);

/* Whether what an instance runs in is there (its pod), for runtimes that know it without asking the instance.
 */
enum runtime_place {
    RUNTIME_PLACE_UNKNOWN,
    RUNTIME_PLACE_THERE,
    RUNTIME_PLACE_GONE /* it ended, or it or its machine was deleted, and none runs in its stead */
};

struct runtime_backend {
    const char *kind; /* "local" */
    int (*ensure)(struct runtime *, const struct runtime_spec *, runtime_instance_cb, void *, struct err *);
    int (*stop)(struct runtime *, const char *name, runtime_done_cb, void *, struct err *);
    int (*remove)(struct runtime *, const char *name, runtime_done_cb, void *, struct err *);
    int (*list)(struct runtime *, runtime_list_cb, void *, struct err *);
    /* NULL: its instances' disks cannot be seen from here. */
    int (*space)(struct runtime *, const char *name, runtime_space_cb, void *, struct err *);
    void (*mark)(struct runtime *, const char *name, bool primary, uint64_t term); /* or NULL */
    int (*renew)(struct runtime *, const char *name, bool looks, runtime_renew_cb, void *,
                 struct err *);                                      /* or NULL */
    enum runtime_place (*place)(struct runtime *, const char *name); /* or NULL */
    void (*close)(struct runtime *, void (*closed)(void *), void *);
    int (*offer)(struct runtime *, runtime_offer_cb, void *, struct err *); /* or NULL */
    bool members;                                                           /* it can make them */
    bool resizes;   /* shards may get more of them, or fewer: runtime_spec.removes is heeded */
    bool passwords; /* it makes the password of members itself: that of the specification is not used */
};

struct runtime {
    const struct runtime_backend *backend;
    void (*moved)(const char *name, void *data); /* see runtime_on_move() */
    void *moved_data;
};

/* Creates if missing, starts if stopped, waits until it accepts connections (a member: until its agent
 * answers); the instance is in the answer. ERRC_UNSUPPORTED: this runtime makes no members. */
int runtime_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                   struct err *err);
/* Fast shutdown, of a member's agent as well; success if it was not running. */
int runtime_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
/* Stops and deletes data and secrets of exactly this instance; success if it does not exist. */
int runtime_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
/* What exists, running or not; used by discovery and after a restart of the manager. */
int runtime_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err);
/* Looks, and makes nothing. ERRC_UNSUPPORTED (only returned): not known before an instance was made. */
int runtime_offer(struct runtime *rt, runtime_offer_cb cb, void *data, struct err *err);
/* Free space of an instance's disks. ERRC_UNSUPPORTED: this runtime cannot tell; ERRC_NOT_FOUND: it is no
 * instance of this runtime. */
int runtime_space(struct runtime *rt, const char *name, runtime_space_cb cb, void *data, struct err *err);
/*
 * Who leads says of each member of a shard, at least once a second, whether it is the primary of this term,
 * so that clients which know only names of the runtime find it. Nothing is promised but that of one shard
 * never two are marked as primaries, that a mark of a lower term takes no place of one of a higher, and that
 * what is not said for some seconds is not done any more. Nothing where there are no such names.
 */
void runtime_mark(struct runtime *rt, const char *name, bool primary, uint64_t term);
/* What is known now, without asking; of an instance that runtime_mark() may be called of. */
enum runtime_place runtime_place(struct runtime *rt, const char *name);
/* When runtime_place() of an instance may be another, `moved` is called with its name; NULL = nobody any
 * more. Not from inside a call. */
void runtime_on_move(struct runtime *rt, void (*moved)(const char *name, void *data), void *data);
/* Ends an instance that is outdated, so that it comes back as specified; with `looks` it only says so.
 * ERRC_UNSUPPORTED (only returned): there is no such need in this runtime. */
int runtime_renew(struct runtime *rt, const char *name, bool looks, runtime_renew_cb cb, void *data,
                  struct err *err);
/* The instances go on running. */
void runtime_close(struct runtime *rt, void (*closed)(void *data), void *data);

/* ---- local processes ---- */

struct runtime_local_options {
    /* Holds <name>/{data,instance.json,password,owner-password,log}, of a member
     * <name>/{member/data,token,...}; made if missing, 0700, as root 0711. */
    const char *directory;
    const char
        *bin_directory;  /* with initdb and postgres; NULL = search (newest of PATH, /usr/lib/postgresql) */
    const char *address; /* numeric, where instances listen and are reached; NULL = 127.0.0.1 */
    /*
     * 0 = 25432, below the ports that the kernel gives to outgoing connections (32768 and up), one of which
     * could else hold an instance's port while it restarts. The first free one from here is taken and kept.
     */
    int first_port;
    const char *user; /* as root: run servers as this user; NULL = "postgres" if it exists, else "nobody" */
    const char *program; /* shardherd, which is also the agent; NULL = the program that runs */
};
/*
 * Looks for programs and makes the directory, so it touches the disk: call it at start-up. ERRC_NOT_FOUND
 * when no PostgreSQL is found, naming where it looked and the package to install. Versions are asked by the
 * first runtime_ensure(), which refuses with ERRC_UNSUPPORTED what is older than 15, and starts a data
 * directory only with programs of its own major version.
 *
 * runtime_ensure() of an instance that runs adopts it as it is; settings take effect at its next start. One
 * that was never usable is removed when ensure fails or is canceled; one that was stays as it is, and
 * ERRC_TIMEOUT then means that it may still be recovering: ensure it again. ERRC_LIMIT: disk; ERRC_CONFLICT:
 * its port is taken, or the name belongs to another shard; ERRC_CORRUPT: its data directory is missing;
 * ERRC_REFUSED: a directory of that name is not
 * ours, or the servers' user cannot get there.
 */
int runtime_local_open(struct loop *loop, const struct runtime_local_options *options, struct runtime **ret,
                       struct err *err);

/* Where the client programs (pg_dump, psql) of the preferred installation are; owned by the runtime. */
const char *runtime_local_bin_directory(const struct runtime *rt);

#endif
