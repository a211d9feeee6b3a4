/*
 * demo_impl: what the files of the demo share. demo_run.c has the state machine and the way to
 * the verdict, demo_end.c the way down, demo_manager.c the child process, demo_fleet.c what is asked of the
 * manager and heard from it, demo_tour.c the moves after the split, demo_failover.c the other story, of a
 * primary that is lost, demo_report.c the result.
 */
#ifndef CLI_DEMO_IMPL_H
#define CLI_DEMO_IMPL_H

#include <stdbool.h>
#include <stdint.h>
#include <yyjson.h>

#include "base/sm.h"
#include "cli/demo_story.h"
#include "cli/demo_view.h"
#include "fleet/range.h"
#include "http/http_client.h"
#include "load/load.h"
#include "loop/loop.h"
#include "loop/process.h"
#include "loop/work.h"

#define DEMO_PHASES_MAX 24
#define DEMO_SIGNALS    3
#define DEMO_WINDOW     10 /* seconds a shard must be hot */

/*
 * PREPARE -> START -> APPLY -> FILL -> CALM -> HOT -> MOVE -> SPREAD -> TOUR -> CHECK -> RESULT -> DELETE -->
 * STOP |                  ^  | (from each of them, by a failure or a signal) --> UNWIND
 * ----------------------------+-----------------+  | |                                | --keep             v
 *                                                        +---> KEEP <---------------------+ SERVERS | v
 *                                                               +----------------> ENDED <-----------------
 * REMOVE
 *
 * PREPARE waits for the worker that makes the directory
 * START   waits for the manager: its file of ports, then /readyz
 * APPLY   waits for the answer to the specification, then for the database to be provisioned
 * FILL    waits for the load library to have made all rows
 * CALM    waits for its timer; load runs, evenly spread
 * HOT     waits for the manager's decision
 * MOVE    waits for the end of the operation
 * SPREAD  waits for its timer
 * TOUR    waits for one operation after the other
 * FAILOVER (from CALM to CHECK, with --failover) waits for the manager's failover, for the old primary to
 *         follow, for a switchover, and for who it moved to follow
 * CHECK   waits for the load to end and to have compared every row
 * RESULT  waits for the last figures of the manager
 * DELETE  waits for the database to be gone
 * UNWIND  waits for the load to end and the worker to be free
 * STOP    waits for the manager's end
 * SERVERS waits until no server runs (there is none after DELETE)
 * REMOVE  waits for the worker that removes the directory
 * KEEP    waits for the child process to be let go
 * ENDED   waits for what is open to be closed
 */
enum demo_state {
    DEMO_PREPARE,
    DEMO_START,
    DEMO_APPLY,
    DEMO_FILL,
    DEMO_CALM,
    DEMO_HOT,
    DEMO_MOVE,
    DEMO_SPREAD,
    DEMO_TOUR,
    DEMO_FAILOVER,
    DEMO_CHECK,
    DEMO_RESULT,
    DEMO_DELETE,
    DEMO_UNWIND,
    DEMO_STOP,
    DEMO_SERVERS,
    DEMO_REMOVE,
    DEMO_KEEP,
    DEMO_ENDED,
    DEMO_STATES
};

struct demo_options {
    bool keep, no_color;
    bool failover;           /* that story, in place of the split */
    const char *report_path; /* NULL = none */
    const char *directory;   /* NULL = a temporary one */
    uint32_t customers;
    uint32_t rate; /* operations/s */
    uint32_t clients;
};

struct demo_phase {
    char name[32];
    double seconds;
};

/* What the report holds beside the load's result; times are loop_clock(). */
struct demo_facts {
    uint64_t hot_ns, decided_ns;
    int rule;
    char sentence[512];
    char refusal[512];                 /* the last one, for a demo that waits in vain */
    char provision[16], operation[16]; /* ids */
    char finding[256];                 /* the first wrong row */
    int first_port;                    /* of the first shard */
    char source[DEMO_NAME_SIZE], target[DEMO_NAME_SIZE];
    struct range range;
    bool range_known;
    bool move_done;
    char state[32]; /* of the move */
    struct demo_phase phases[DEMO_PHASES_MAX];
    int phase_count;
    uint64_t phase_ns; /* begin of the present one */
    double moved_rows, moved_bytes, copy_seconds, write_block_ms, fence_attempts, cleaned_rows;
    double loop_longest_ms, cpu_seconds, rss_peak_bytes;
    char postgresql[32];
    double fill_seconds;
    uint64_t rows_made;
};

enum demo_tour_part { TOUR_ISOLATE, TOUR_ROLLBACK, TOUR_MERGE, TOUR_PARTS };

/* The moves that are asked for after the split. */
struct demo_tour {
    enum demo_tour_part part;
    char operation[16];          /* id; "" = its answer is still to come */
    char state[32];              /* of the operation */
    char source[DEMO_NAME_SIZE]; /* of the isolation */
    double block_ms[TOUR_PARTS]; /* NAN = did not come to it */
};

enum demo_failover_part { FAILOVER_WHOLE, FAILOVER_LOST, FAILOVER_REJOIN, FAILOVER_SWITCH, FAILOVER_FOLLOW };

/* What a change of the primary cost, in seconds; NAN = it did not come to it. */
struct demo_change {
    double clients;   /* without an acknowledged write of that shard, as the clients saw it */
    double blocked;   /* as the manager says: from when the old one was last there to the new one open */
    double following; /* from the fault, or the request, until the old primary followed */
};

/* A primary is lost, and then handed back. */
struct demo_failover {
    enum demo_failover_part part;
    char first[DEMO_NAME_SIZE], second[DEMO_NAME_SIZE]; /* primaries: who is killed, who follows it */
    struct range range;                                 /* of their shard */
    uint64_t since_ns;                                  /* of the fault, or the request */
    uint64_t opened_ns;                                 /* when the new primary was heard to be there */
    bool asked;                                         /* an answer of the manager is to come */
    int rule;
    struct demo_change lost, handed;
};

struct demo {
    struct demo_options o;
    struct loop loop;
    struct demo_story story;
    struct demo_view view;
    struct demo_facts facts;
    struct demo_tour tour;
    struct demo_failover failover;
    struct sm sm;
    struct loop_task step;      /* enters `next` */
    int next;                   /* state to enter, -1 = none */
    struct loop_timer deadline; /* of the state */
    struct loop_timer wait;     /* of the state */
    struct loop_timer refresh;  /* the display */
    struct loop_signal signals[DEMO_SIGNALS];
    unsigned signals_started;
    struct work job;
    bool job_busy;
    void (*job_done)(struct demo *d);
    struct err job_err;
    int job_count, job_signal;
    char ports_text[512];

    char *directory;
    bool directory_made;
    char *log_path, *ledger_path, *findings_path, *passfile;
    struct process *manager; /* NULL = does not run */
    char *public_url, *admin_url;

    struct http_client *client;
    struct http_call *events; /* NULL = not open */
    struct sse_parser *parser;
    struct loop_timer events_again;
    bool following;
    bool shards_asked, announced;

    struct load *load; /* NULL = none runs */
    struct load_options load_options;
    struct load_result result;
    bool have_result;
    struct load_stats shown; /* at the last look */
    uint64_t shown_ns;

    bool calm; /* whether the machine can do that load was looked at */
    bool failed, interrupted;
    unsigned impatient; /* signals */
    bool removed;       /* the directory */
    uint64_t servers_since_ns;
    struct err err;     /* the first failure */
    char failed_in[64]; /* what was done then */
    struct buf log_tail, log_cause;
    double total_seconds;
};

/* ---- demo_run.c ---- */

int demo_now(const struct demo *d); /* enum demo_state */
/* Callbacks only say where to go; the step enters it. A failure is not overtaken by what was under way. */
void demo_go(struct demo *d, int next);
/* The first failure counts; everything is taken down from whatever state it is in. */
void demo_fail(struct demo *d, const struct err *err);
void demo_failf(struct demo *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool demo_ending(const struct demo *d);
/* Runs `run` (work->data = the demo) on a worker, one at a time. */
void demo_job(struct demo *d, void (*run)(struct work *work), void (*done)(struct demo *d));
/* Runs all of it; the exit code. */
int demo_run(struct demo *d);
/* What demo_fleet.c and demo_manager.c report. */
void demo_manager_ready(struct demo *d);
void demo_decided(struct demo *d);
void demo_moved(struct demo *d);

/* ---- demo_end.c ---- */

void demo_enter_unwind(struct demo *d);
/* Something that UNWIND waits for has ended, perhaps. */
void demo_unwound(struct demo *d);
void demo_enter_stop(struct demo *d);
void demo_manager_gone(struct demo *d, const struct err *how);
void demo_enter_servers(struct demo *d);
void demo_look_servers(struct demo *d);
void demo_enter_remove(struct demo *d);
void demo_enter_keep(struct demo *d);
void demo_enter_ended(struct demo *d);
/* When the loop has ended: report and last line; the exit code. */
int demo_conclude(struct demo *d);

/* ---- demo_manager.c ---- */

int demo_manager_start(struct demo *d, struct err *err);
/* Looks for its ports, then whether it is ready; called again and again. */
void demo_manager_look(struct demo *d);
void demo_manager_stop(struct demo *d, int number);

/* ---- demo_fleet.c ---- */

/* err NULL: a success; root NULL: without JSON. */
typedef void (*demo_api_cb)(struct demo *d, const struct err *err, yyjson_val *root);
/* Fails the demo if it cannot be started. */
void demo_api(struct demo *d, const char *method, const char *path, const char *body, demo_api_cb cb);

char *demo_specification(const struct demo *d); /* JSON, to be freed */
double demo_threshold(const struct demo *d);
void demo_follow(struct demo *d);
void demo_unfollow(struct demo *d);
/* Asks for the shards, unless an answer is still to come. */
void demo_ask_shards(struct demo *d);
/* Figures of the load, and of filling and checking, into the view. */
void demo_view_load(struct demo *d);
void demo_view_task(struct demo *d);
void demo_fleet_init(struct demo *d);

/* ---- demo_tour.c ---- */

void demo_enter_tour(struct demo *d);
/* An event of any operation. */
void demo_tour_operation(struct demo *d, yyjson_val *operation);
/* The timer of the state. */
void demo_tour_waited(struct demo *d);

/* ---- demo_failover.c ---- */

void demo_failover_init(struct demo *d);
void demo_enter_failover(struct demo *d);
/* Asks for the instances, for the display and to see how far it is; unless an answer is still to come. */
void demo_ask_members(struct demo *d);
/* An event of any operation. */
void demo_failover_operation(struct demo *d, yyjson_val *operation);

/* ---- demo_report.c ---- */

uint64_t demo_wrong_rows(const struct load_result *result);
/* Ends the present phase of the move, if there is one, and begins `name` (NULL = none). */
void demo_phase(struct demo *d, const char *name);
void demo_print_verdict(struct demo *d);
int demo_write_report(const struct demo *d, struct err *err);

#endif
