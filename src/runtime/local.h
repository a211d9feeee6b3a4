/*
 * local: the parts of the local back end that its files share. Not for other folders.
 *
 * One instance is one directory, <directory>/<name>/:
 *
 *   instance.json    who it belongs to, its port, and the mark that it is ours; written before anything else
 *   data/            the data directory; the only thing the server's user owns
 *   shardherd.conf   included by data/postgresql.conf, written anew before each start
 *   pg_hba.conf      ditto
 *   password         of the superuser role "shardherd", mode 0600
 *   owner-password   of the application's role, mode 0600, if it has one
 *   log              what the server says, mode 0600, cut when it grows beyond LOCAL_LOG_MAX
 *
 * A member of a shard of several instances has an agent (docs/agent.md), whose log it then is, and instead of
 * data/, shardherd.conf and pg_hba.conf:
 *
 *   member/          all that the agent writes, and owned by its user: data/, when somebody ordered that
 * there be any, and beside it data.order, data.marks, data.lock, data.pgpass, data.kept settings included by
 * the server's configuration, written anew before each start of the agent token            what callers of
 * the agent show; like `password` readable by the agent's user
 *
 * A directory that is being made or deleted has the name ".new-<name>" or ".old-<name>" for a moment, so that
 * no crash leaves an instance that looks whole. One that is "creating" in its instance.json was never used.
 *
 * Functions marked "worker" block on files or /proc and run in worker jobs only.
 */
#ifndef RUNTIME_LOCAL_H
#define RUNTIME_LOCAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/list.h"
#include "base/sm.h"
#include "loop/loop.h"
#include "loop/process.h"
#include "loop/work.h"
#include "runtime/runtime.h"

struct http_client;
struct http_call;

#define LOCAL_SUPERUSER         "shardherd"
#define LOCAL_ADDRESS           "127.0.0.1"
#define LOCAL_FIRST_PORT        25432
#define LOCAL_MIN_FREE          (512ull << 20)
#define LOCAL_LOG_MAX           (64ll << 20)
#define LOCAL_OLDEST_VERSION    15
#define LOCAL_PASSWORD_LENGTH   32
#define LOCAL_TOKEN_LENGTH      40
#define LOCAL_AGENT_ADDRESS     "127.0.0.1" /* where agents are spoken to: the token crosses no network */
#define LOCAL_BINARIES_MAX      16
#define LOCAL_TERM_TRIES        30 /* of 100 ms: orphans that end by SIGTERM give their shared memory back */
#define LOCAL_START_TIMEOUT_NS  (60 * ENV_NS_PER_S)
#define LOCAL_INITDB_TIMEOUT_NS (120 * ENV_NS_PER_S)

/* ---- the back end ---- */

struct local_binary {
    char *directory; /* with initdb and postgres */
    int version;     /* 150018; 0 = not asked yet, -1 = it does not run */
};

struct local_agent_seen;
struct local_agents {
    struct local_agent_seen *all;
    int count;
};

struct local {
    struct runtime base; /* first */
    struct loop *loop;
    char *directory; /* absolute, without symbolic links */
    char *address;
    int first_port;
    char *user_name; /* as root: who runs the servers, NULL = "postgres", else "nobody" */
    char *program;   /* shardherd, as the agents of members */
    struct local_binary binaries[LOCAL_BINARIES_MAX];
    int binary_count;
    struct local_agents agents; /* that the last list saw; a list that runs has them */
    pthread_mutex_t ports;      /* held by the worker job that picks a port, until it is in instance.json */
    struct list ops;            /* every local_op not answered yet, in order of arrival */
    struct list servers;        /* postmasters and agents that we started */
    int open;                   /* ops and servers that still hold memory */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task settle;
};

/* Whom servers run as. */
struct local_user {
    uid_t uid; /* 0 = as ourselves */
    gid_t gid;
    char name[64];
};

/* Embedded first in each operation; operations on one instance run one after the other. */
struct local_op {
    struct list node;
    struct local *local;
    char *name; /* of the instance; NULL = touches none (list) */
    bool started;
    bool canceled;
    void (*start)(struct local_op *op);  /* its turn has come (or, if canceled: answer now) */
    void (*cancel)(struct local_op *op); /* interrupt what can be; op->canceled is set */
    struct loop_task task;
};

void local_op_add(struct local *local, struct local_op *op, const char *name,
                  void (*start)(struct local_op *), void (*cancel)(struct local_op *));
/* Last call of an operation, before it frees itself: lets the next one on this instance go. */
void local_op_end(struct local_op *op);

/* ---- instance.json and the files beside it (local_files.c, local_record.c) ---- */

struct local_record {
    char *name, *database, *shard, *owner; /* "" = none */
    char *host;
    int port;
    bool creating;
    char *password;       /* of the superuser; NULL while creating */
    char *owner_password; /* NULL = none */
    int major;            /* from data/PG_VERSION, else what its agent was given; 0 = none */
    int pid;              /* of the living postmaster, 0 = none */
    /* of a member */
    bool member;
    int agent_port;
    char *token;
    int agent_pid, watch_pid; /* of the living agent and its watchdog, 0 = none; by local_agents_find() */
};
void local_record_clear(struct local_record *record);
/* Worker. ERRC_NOT_FOUND: no such directory. ERRC_REFUSED: not ours. ERRC_CORRUPT: unreadable. */
int local_record_load(const char *directory, const char *name, struct local_record *ret, struct err *err);
/* Worker. Writes <path>/instance.json durably, without the secrets. */
int local_record_save(const char *path, const struct local_record *record, struct err *err);

/* The data directory of an instance. free() it. */
char *local_data_path(const char *directory, const char *name, bool member);
/* "<directory>/<prefix><name>/<leaf>"; leaf may be NULL. free() it. */
char *local_path(const char *directory, const char *prefix, const char *name, const char *leaf);
/* Worker. Writes a new file through a temporary one, durably; replaces. */
int local_file_write(const char *path, const char *text, mode_t mode, const struct local_user *owner,
                     struct err *err);
/* Worker. At most `limit` bytes, NUL-terminated; NULL and err when it cannot be read. */
char *local_file_read(const char *path, size_t limit, struct err *err);
/* Worker. Appends to an existing plain file, durably. */
int local_file_append(const char *path, const char *text, struct err *err);
/* Worker. Deletes the tree without following symbolic links; success if it does not exist. */
int local_tree_delete(const char *path, struct err *err);
/* Worker. fsync of a directory. */
int local_directory_sync(const char *path, struct err *err);
/* Worker. ERRC_LIMIT naming path, free and needed bytes. */
int local_disk_check(const char *path, uint64_t needed, struct err *err);
/* Worker. Empties a log that has grown beyond `limit`, keeping its end in "<path>.old". */
void local_log_trim(const char *path, long long limit);
/* Worker. The last line that says why a server ended ("FATAL", "PANIC"), else the last line; "" if none. */
void local_log_reason(const char *path, char *ret, size_t size);

/* ---- the system (local_system.c) ---- */

/* Worker. Not root: ourselves. Root: the named user, or "postgres", or "nobody". */
int local_user_find(const char *name, struct local_user *ret, struct err *err);
/* Worker. ERRC_REFUSED naming the parent directory that the user cannot pass. */
int local_user_reaches(const struct local_user *user, const char *path, struct err *err);
/* True if pid is a process that works in this data directory; a zombie is not. Reads /proc only. */
bool local_pid_alive(int pid, const char *data);
/* Worker. How many processes work in, or were started with, this data directory; `number` != 0: signals each.
 */
int local_orphans(const char *data, int number);
/* Can an instance listen there now? 0, or ERRC_CONFLICT, or another error. */
int local_port_try(const char *address, int port, struct err *err);
/* Worker. "pid 4711 (nginx)" or "an unknown process". */
void local_port_holder(int port, char *ret, size_t size);

/* ---- agents (local_agents.c) ---- */

/* Worker. Every agent that runs on this machine as a member, whosoever it is. */
void local_agents_scan(struct local_agents *ret);
/* Worker. Those of them that still are agents or watchdogs; who else there may be by now is not looked for.
 */
void local_agents_again(struct local_agents *agents);
void local_agents_clear(struct local_agents *agents);
/* Fills agent_pid and watch_pid of a member with what was seen and runs as the owner of its directory. */
void local_agents_find(const struct local_agents *agents, const char *directory, struct local_record *record);
/* Worker. Both for one. */
void local_agent_look(const char *directory, struct local_record *record);
/*
 * Worker. How many agents and watchdogs of this member there are; `number` != 0: signals an agent. A process
 * that a manager had just forked when it was killed becomes an agent after the member was looked at.
 */
int local_agent_strays(const char *directory, const char *name, int number);
/*
 * True if pid is an agent, or the watchdog of one, with this data directory, also when it is just ending and
 * still holds its files and ports. Reads /proc only.
 */
bool local_agent_alive(int pid, const char *data);

/*
 * Asks the agent of a member for its status until it is given, by whoever holds the token.
 */
struct local_contact {
    struct sm sm;
    struct local *local;
    const struct local_record *record; /* agent_port, token, name; agent_pid = watch that process */
    const char *data_path;             /* set by the caller */
    uint64_t deadline_ns;
    struct http_client *client;
    struct http_call *call;
    struct loop_timer timer;
    struct err err;
    void (*done)(struct local_contact *contact, const struct err *err, void *data);
    void *data;
};
/* Embed it, zeroed. done comes once, later; ERRC_TIMEOUT when it did not answer by the deadline, ERRC_CLOSED
 * when agent_pid ended. */
void local_contact_start(struct local_contact *contact, struct local *local,
                         const struct local_record *record,
                         void (*done)(struct local_contact *, const struct err *, void *), void *data);
/* done follows with this error. */
void local_contact_cancel(struct local_contact *contact, const struct err *why);

/* ---- programs (local_binaries.c) ---- */

int local_binaries_search(struct local *local, const char *directory, struct err *err);
/* "postgres (PostgreSQL) 15.14 (Debian ...)" to 150014; 0 if it is something else. */
int local_version_parse(const char *text);
/* The program to use: major 0 = the newest. ERRC_UNSUPPORTED with the remedy when there is none. */
const struct local_binary *local_binaries_pick(const struct local *local, int major, struct err *err);
/* The same with all that an agent runs: pg_basebackup and pg_rewind as well. */
const struct local_binary *local_binaries_pick_member(const struct local *local, int major, struct err *err);

/* ---- configuration texts (local_config.c), pure ---- */

int local_settings_check(const char *const *settings, struct err *err);
void local_config_text(struct buf *out, const struct local_record *record, const char *hba_path, int major,
                       char *const *settings);
void local_hba_text(struct buf *out, const char *address);
/* What a member's server is told besides what its agent tells it. */
void local_member_text(struct buf *out, int major, char *const *settings);

/* ---- ending a server (local_halt.c) ---- */

/*
 * Sends SIGINT, after 30 s SIGQUIT, and (force) after 10 s SIGKILL; immediate starts with SIGQUIT.
 * An agent gets SIGTERM, after 45 s SIGKILL, and is gone when its watchdog is, which ends what the server
 * left. Embed it; `done` comes once, later: NULL, or ERRC_TIMEOUT when the server does not end.
 */
struct local_halt {
    struct sm sm;
    struct local *local;
    int pid, watch_pid; /* of an agent's watchdog */
    bool agent;
    char *data_path;
    bool force;
    uint64_t deadline_ns;
    struct loop_timer timer;
    void (*done)(struct local_halt *halt, const struct err *err, void *data);
    void *data;
};
void local_halt_start(struct local_halt *halt, struct local *local, int pid, const char *data_path,
                      bool immediate, bool force,
                      void (*done)(struct local_halt *, const struct err *, void *), void *data);
void local_halt_agent(struct local_halt *halt, struct local *local, const struct local_record *record,
                      const char *data_path, void (*done)(struct local_halt *, const struct err *, void *),
                      void *data);
/* Stops waiting; the signal stays sent, done does not come. Idempotent, legal when never started. */
void local_halt_abandon(struct local_halt *halt);

/* ---- first contact (local_login.c) ---- */

/*
 * Connects until it works, then creates role and database if they are missing. Speaks only to the server of
 * its data directory: another one on the port is not asked and not believed.
 */
struct local_login {
    struct sm sm;
    struct local *local;
    const struct local_record *record; /* host, port, password, database, owner; pid = watch that server */
    const char *data_path;             /* its data directory; set by the caller */
    char *verifier;                    /* SCRAM verifier of the owner's password, or NULL */
    bool set_password;                 /* also when the role exists */
    bool role_exists, database_exists;
    uint64_t deadline_ns;
    struct pg_conn *conn;
    struct loop_timer timer;
    struct work work;
    struct err found; /* by the worker that looks whether the server is up */
    bool refused;     /* it did not let us in; told once it is certain that it was ours */
    struct err err;
    void (*done)(struct local_login *login, const struct err *err, void *data);
    void *data;
};
/* Embed it, zeroed. done comes once, later; ERRC_TIMEOUT when the server did not let us in by the deadline.
 */
void local_login_start(struct local_login *login, struct local *local, const struct local_record *record,
                       void (*done)(struct local_login *, const struct err *, void *), void *data);
/* done follows with this error. */
void local_login_cancel(struct local_login *login, const struct err *why);

/* ---- operations ---- */

int local_ensure(struct runtime *rt, const struct runtime_spec *spec, runtime_instance_cb cb, void *data,
                 struct err *err);
int local_stop(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
int local_remove(struct runtime *rt, const char *name, runtime_done_cb cb, void *data, struct err *err);
int local_offer(struct runtime *rt, runtime_offer_cb cb, void *data, struct err *err); /* local_offer.c */
int local_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err);
/* local_space.c */
int local_space(struct runtime *rt, const char *name, runtime_space_cb cb, void *data, struct err *err);

/* What callers get to see; points into record and data_path. */
void local_instance_view(const struct local_record *record, const char *data_path,
                         struct runtime_instance *ret);

/* A postmaster or an agent that we started: tells its early death to whoever waits for it. */
struct local_server {
    struct list node;
    struct local *local;
    struct process *process;
    void (*exited)(const struct process_result *result, void *data); /* NULL = nobody waits */
    void *data;
};
/* Starts data/ detached; on success *ret lives until the postmaster ends or the runtime closes. */
int local_server_start(struct local *local, const struct local_binary *binary, const struct local_user *user,
                       const char *path, struct local_server **ret, struct err *err);
/* The same for the agent of a member, which starts no server before somebody orders it. */
int local_agent_start(struct local *local, const struct local_binary *binary, const struct local_user *user,
                      const struct local_record *record, struct local_server **ret, struct err *err);

#endif
