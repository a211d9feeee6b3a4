/* The demo's end: what was started is taken down, whatever state it is in, and the last word is said. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/demo_files.h"
#include "cli/demo_impl.h"

#define LOOK_GONE_NS (50 * ENV_NS_PER_MS)
#define FAST_STOP_NS (10 * ENV_NS_PER_S)
#define LOG_LINES    8

/* What UNWIND waits for: then on to what is left to take away. */
void demo_unwound(struct demo *d)
{
    if (demo_now(d) == DEMO_UNWIND && d->load == NULL && !d->job_busy)
        demo_go(d, d->o.keep && !d->interrupted && d->manager != NULL ? DEMO_KEEP : DEMO_STOP);
}

/* ---- UNWIND, STOP, SERVERS, REMOVE, KEEP, ENDED ---- */

void demo_enter_unwind(struct demo *d)
{
    d->view.task = NULL;
    d->view.loading = false;
    demo_story_end_block(&d->story);
    if (d->directory != NULL)
        demo_story_say(&d->story, TONE_BAD, "%s; ending what was started",
                       d->interrupted ? "interrupted" : "failed");
    demo_unfollow(d);
    demo_phase(d, NULL);
    if (d->load != NULL)
        load_stop(d->load);
    if (d->load != NULL)
        load_stop(d->load); /* at once: nothing is to be checked any more */
    demo_unwound(d);
}

void demo_enter_stop(struct demo *d)
{
    demo_unfollow(d);
    if (d->manager == NULL)
        demo_go(d, DEMO_SERVERS);
    else
        demo_manager_stop(d, d->impatient > 1 ? SIGKILL : SIGTERM);
}

void demo_manager_gone(struct demo *d, const struct err *how)
{
    if (demo_now(d) == DEMO_STOP)
        demo_go(d, DEMO_SERVERS);
    else if (demo_now(d) == DEMO_KEEP)
        demo_go(d, DEMO_ENDED);
    else {
        if (!d->interrupted) /* it is the cause also of a request that failed a moment before */
            err_copy(&d->err, how);
        demo_fail(d, how);
    }
}

static void run_servers(struct work *work)
{
    struct demo *d = work->data;
    d->job_count = demo_servers_signal(d->directory, d->job_signal);
    if (d->failed && d->log_tail.length == 0)
        demo_log_tail(d->log_path, LOG_LINES, &d->log_tail, &d->log_cause);
}

static void servers_done(struct demo *d)
{
    if (d->job_count == 0) {
        demo_go(d, DEMO_REMOVE);
        return;
    }
    if (!d->failed)
        demo_failf(d, "%d servers outlived their database", d->job_count);
    loop_timer_start(&d->wait, LOOK_GONE_NS);
    if (d->servers_since_ns == 0)
        d->servers_since_ns = loop_clock(&d->loop);
}

void demo_look_servers(struct demo *d)
{
    bool late = d->servers_since_ns != 0 && loop_clock(&d->loop) - d->servers_since_ns > FAST_STOP_NS;
    /* a fast shutdown, asked for once; then an immediate one */
    d->job_signal = late || d->impatient > 1 ? SIGQUIT : d->servers_since_ns == 0 ? SIGINT : 0;
    demo_job(d, run_servers, servers_done);
}

void demo_enter_servers(struct demo *d)
{
    if (d->directory == NULL)
        demo_go(d, DEMO_REMOVE);
    else
        demo_look_servers(d);
}

static void run_remove(struct work *work)
{
    struct demo *d = work->data;
    bool all = !d->failed || d->interrupted;
    err_clear(&d->job_err);
    (void)demo_directory_clean(d->directory, all, d->directory_made, &d->job_err);
    d->removed = all;
}

static void removed(struct demo *d)
{
    if (d->job_err.code != ERRC_NONE)
        demo_fail(d, &d->job_err);
    demo_go(d, DEMO_ENDED);
}

void demo_enter_remove(struct demo *d)
{
    if (d->directory == NULL)
        demo_go(d, DEMO_ENDED);
    else
        demo_job(d, run_remove, removed);
}

void demo_enter_keep(struct demo *d)
{
    struct buf out = {0};
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = '\0';
    int pid = (int)process_pid(d->manager);
    demo_unfollow(d);
    buf_printf(&out,
               "Manager and servers go on running, without load. To look around:\n"
               "  %s get shards --state %s/state\n"
               "  PGPASSFILE=%s psql -U app -h 127.0.0.1 -p %d shop\n"
               "To stop them and take everything away:\n"
               "  %s delete database shop --confirm=shop --wait --state %s/state &&\\\n"
               "    kill %d && tail -f --pid=%d /dev/null && rm -r %s\n",
               program, d->directory, d->passfile, d->facts.first_port, program, d->directory, pid, pid,
               d->directory);
    demo_story_end_block(&d->story);
    demo_story_print(&d->story, buf_text(&out));
    buf_free(&out);
    process_release(d->manager);
}

static void client_closed(void *data)
{
    struct demo *d = data;
    d->client = NULL;
}

void demo_enter_ended(struct demo *d)
{
    loop_timer_stop(&d->refresh);
    for (unsigned i = 0; i < d->signals_started; i++)
        loop_signal_stop(&d->signals[i]);
    http_client_close(d->client, client_closed, d);
}

/* ---- the end ---- */

static void print_failure(struct demo *d)
{
    struct buf out = {0};
    buf_printf(&out, "shardherd demo: failed while %s: %s\n", d->failed_in, d->err.message);
    if (d->log_cause.length > 0)
        buf_printf(&out, "  the manager says: %s\n", buf_text(&d->log_cause));
    if (d->log_tail.length > 0) {
        buf_add_text(&out, "  the end of its log:\n    ");
        for (const char *p = buf_text(&d->log_tail); *p != '\0'; p++)
            buf_printf(&out, *p == '\n' ? "%c    " : "%c", *p);
        buf_addc(&out, '\n');
    }
    if (d->directory != NULL && !d->removed)
        buf_printf(&out, "  the logs are kept: %s/manager.log and %s/state/instances/*/log\n", d->directory,
                   d->directory);
    demo_story_error(&d->story, buf_text(&out));
    buf_free(&out);
}

static void say_done(struct demo *d)
{
    if (d->o.failover)
        demo_story_say(&d->story, TONE_GOOD,
                       "shard s1 lost its primary under load, was served on by a standby, and got it back; "
                       "nothing was lost: %.1f s in all",
                       d->total_seconds);
    else
        demo_story_say(
            &d->story, TONE_GOOD,
            "shard %s was split under load, by itself; a key was isolated, taken back, and two shards "
            "were merged; nothing was lost: %.1f s in all",
            d->facts.source, d->total_seconds);
}

int demo_conclude(struct demo *d)
{
    struct err err = {0};
    d->total_seconds = demo_story_seconds(&d->story);
    demo_story_end_block(&d->story);
    if (d->o.report_path != NULL && demo_write_report(d, &err) != 0)
        demo_fail(d, &err);
    if (d->failed && !d->interrupted)
        print_failure(d);
    else if (d->interrupted)
        demo_story_say(&d->story, TONE_BAD, "interrupted; everything was taken away");
    else
        say_done(d);
    if (d->interrupted)
        return CLI_INTERRUPTED;
    return !d->failed                                             ? CLI_OK
           : d->directory == NULL && d->err.code == ERRC_CONFLICT ? CLI_USAGE
                                                                  : CLI_FAILED;
}
