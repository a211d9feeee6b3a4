/*
 * process: child processes with captured output and a deadline.
 *
 * stdin is /dev/null or the given bytes. stdout and stderr are captured up to a limit each (the rest is read
 * and dropped, `truncated` set). Every child leads a session and process group of its own; at the deadline
 * that group gets SIGTERM, 2 s later SIGKILL. A process is complete when it has exited and its outputs have
 * reached EOF, at the latest 1 s after the exit (a grandchild may hold them).
 */
#ifndef LOOP_PROCESS_H
#define LOOP_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "loop/loop.h"

struct process;

struct process_options {
    const char *const *argv; /* NULL-terminated, argv[0] looked up in PATH; never put a secret here */
    const char *const *env;  /* "NAME=value" pairs added to (or replacing in) our environment, or NULL */
    const char *directory;   /* working directory or NULL */
    const char *input;       /* bytes for stdin or NULL */
    size_t input_length;
    const char *output_path; /* append stdout and stderr to this file instead of capturing, or NULL */
    bool output_ours;        /* stdout and stderr go to our stderr instead of being captured */
    uid_t uid;               /* run as this user and group when uid != 0 (needs root) */
    gid_t gid;
    bool detached;        /* own session, not ended with us */
    uint64_t timeout_ns;  /* 0 = none */
    size_t capture_limit; /* bytes kept of each output; 0 = 1 MiB */
    /* Once a whole line of the captured stderr holds this, all that was wanted of it is known: the group is
     * killed, and result->enough says so, without an error. A constant, or NULL. */
    const char *enough;
};

struct process_result {
    struct err err;  /* ERRC_NONE if it ran and ended by itself, whatever its exit code */
    int exit_code;   /* -1 when ended by a signal */
    int term_signal; /* 0 when it exited */
    const char *out; /* NUL-terminated, valid during the callback */
    size_t out_length;
    const char *errors; /* stderr */
    size_t errors_length;
    bool truncated;
    bool enough;                         /* it was ended for options->enough */
    uint64_t user_cpu_us, system_cpu_us; /* of the child; 0: not known, as ever with libuv */
    long max_rss_kib;                    /* ditto */
};

typedef void (*process_cb)(const struct process_result *result, void *data);
/* Called with each piece of stdout as it comes; then result->out stays empty. */
typedef void (*process_output_cb)(const char *bytes, size_t length, void *data);

/* On success the callback comes exactly once; *ret (may be NULL) is valid until then. */
int process_start(struct loop *loop, const struct process_options *options, process_cb cb, void *data,
                  struct process **ret, struct err *err);
void process_on_output(struct process *p, process_output_cb cb, void *data);
pid_t process_pid(const struct process *p);
int process_signal(struct process *p, int number);
/* Kills the group (SIGKILL); the callback follows with ERRC_CANCELED. */
void process_cancel(struct process *p);

/* Forgets a child that is to outlive us: it goes on, the callback follows with ERRC_CANCELED. */
void process_release(struct process *p);

/* One line for errors: "initdb exited with 1: <last line of stderr>". */
void process_describe(const struct process_result *result, const char *name, struct err *err);

#endif
