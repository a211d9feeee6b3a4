/* Happy path: fork, poll on a pipe from the agent and a timer for the deadline, until the pipe ends. */
#include "agent/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent_files.h"
#include "agent/postmaster.h"
#include "base/env.h"
#include "base/mem.h"

#define LOOK_NS (100 * ENV_NS_PER_MS) /* between two looks at an agent that does not turn */

struct page { /* shared; the agent writes all but `fired` */
    _Atomic int postmaster, helper;
    _Atomic uint64_t deadline_ns, turn_ns, stopped_ns; /* 0 = none */
    _Atomic unsigned fired;
    _Atomic bool owner;   /* the agent has the lock: what works in the directory is its */
    _Atomic bool orderly; /* the agent ends and PostgreSQL has */
};

struct watchdog {
    struct page *page;
    pid_t pid;
    int wake; /* write end of the pipe */
};

/* ---- the child ---- */

static void timer_set(int fd, uint64_t at_ns)
{
    struct itimerspec spec = {0};
    spec.it_value.tv_sec = (time_t)(at_ns / ENV_NS_PER_S);
    spec.it_value.tv_nsec = (long)(at_ns % ENV_NS_PER_S);
    (void)timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Past the deadline: the postmaster first, so that it starts nobody again. */
static void kill_all(const struct page *page, const char *data)
{
    int pid = atomic_load(&page->postmaster);
    if (pid > 0)
        (void)kill(pid, SIGKILL);
    (void)postmaster_signal_all(data, SIGKILL);
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

struct watch { /* the child's own */
    struct page *page;
    const char *data;
    int warned;         /* the postmaster that was told to end */
    uint64_t seen_ns;   /* when the agent was seen stopped first, 0 = it is not */
    uint64_t halted_ns; /* the deadline that follows from it, 0 = none */
};

/* An agent that is stopped, and was so at the look before. Returns when to look again. */
static uint64_t stopped_check(struct watch *w, uint64_t now)
{
    uint64_t from = atomic_load(&w->page->stopped_ns);
    if (from == 0 || now < from || !postmaster_is_stopped(getppid())) {
        w->seen_ns = w->halted_ns = 0;
        return from == 0 || now < from ? from : now + LOOK_NS;
    }
    if (w->seen_ns == 0)
        w->seen_ns = now;
    else if (w->halted_ns == 0 && now >= w->seen_ns + LOOK_NS)
        w->halted_ns = now + WATCHDOG_QUIT_AHEAD_NS;
    return w->halted_ns != 0 ? 0 : w->seen_ns + LOOK_NS;
}

/* Looks at the deadlines; returns when to look again, 0 = when told. */
static uint64_t deadline_check(struct watch *w)
{
    struct page *page = w->page;
    int pid = atomic_load(&page->postmaster);
    if (pid == 0)
        return 0;
    uint64_t now = env_boot_ns(), look = stopped_check(w, now);
    uint64_t deadline = sooner(atomic_load(&page->deadline_ns), atomic_load(&page->turn_ns));
    deadline = sooner(deadline, w->halted_ns);
    if (deadline == 0 || now + WATCHDOG_QUIT_AHEAD_NS < deadline)
        return sooner(look, deadline == 0 ? 0 : deadline - WATCHDOG_QUIT_AHEAD_NS);
    if (w->warned != pid && pid > 0) {
        w->warned = pid;
        atomic_fetch_add(&page->fired, 1); /* before: whoever sees the server end may ask at once */
        (void)kill(pid, SIGQUIT);
    }
    if (now + WATCHDOG_KILL_AHEAD_NS < deadline)
        return deadline - WATCHDOG_KILL_AHEAD_NS;
    kill_all(page, w->data);
    return now + 20 * ENV_NS_PER_MS; /* again, until the agent says that it is gone: forks may slip through */
}

static void agent_gone(const struct page *page, const char *data)
{
    int helper = atomic_load(&page->helper);
    if (atomic_load(&page->orderly) || !atomic_load(&page->owner))
        return;
    if (helper > 0)
        (void)kill(-helper, SIGKILL);
    (void)postmaster_sweep(data, NULL);
}

static void child_run(struct page *page, const char *data, int wake)
{
    int timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    struct watch watch = {.page = page, .data = data};
    uint64_t expired;
    char bytes[64];
    ssize_t n = 1;
    (void)setsid(); /* what is sent to the agent's group does not reach us */
    (void)prctl(PR_SET_NAME, "shardherd-watch");
    for (int number = 1; number < NSIG; number++)
        if (number != SIGCHLD)
            (void)signal(number, SIG_IGN);
    while (n != 0 && timer >= 0) {
        struct pollfd fds[2] = {{.fd = wake, .events = POLLIN}, {.fd = timer, .events = POLLIN}};
        timer_set(timer, deadline_check(&watch));
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        (void)!read(timer, &expired, sizeof expired);
        if (fds[0].revents != 0)
            n = read(wake, bytes, sizeof bytes);
    }
    agent_gone(page, data);
    _exit(timer >= 0 ? 0 : 1);
}

/* ---- the agent's side ---- */

int watchdog_start(const char *data, struct watchdog **ret, struct err *err)
{
    int ends[2];
    struct page *page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return err_set_errno(err, errno, "cannot share memory with the watchdog");
    if (pipe2(ends, O_CLOEXEC) != 0) {
        (void)munmap(page, sizeof *page);
        return err_set_errno(err, errno, "cannot make the watchdog's pipe");
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(ends[1]);
        child_run(page, data, ends[0]);
    }
    (void)close(ends[0]);
    if (pid < 0) {
        (void)close(ends[1]);
        (void)munmap(page, sizeof *page);
        return err_set_errno(err, errno, "cannot start the watchdog");
    }
    (void)fcntl(ends[1], F_SETFL, O_NONBLOCK);
    *ret = mem_zalloc(sizeof **ret);
    **ret = (struct watchdog){.page = page, .pid = pid, .wake = ends[1]};
    return 0;
}

pid_t watchdog_pid(const struct watchdog *w)
{
    return w->pid;
}

/* A full pipe is fine: it wakes then anyway. */
static void wake(const struct watchdog *w)
{
    (void)!write(w->wake, "w", 1);
}

void watchdog_set_postmaster(struct watchdog *w, pid_t pid)
{
    atomic_store(&w->page->postmaster, pid);
    wake(w);
}

void watchdog_own(struct watchdog *w)
{
    atomic_store(&w->page->owner, true);
}

void watchdog_set_helper(struct watchdog *w, pid_t pid)
{
    atomic_store(&w->page->helper, pid);
}

static void set(const struct watchdog *w, _Atomic uint64_t *which, uint64_t boot_ns)
{
    uint64_t before = atomic_exchange(which, boot_ns);
    if (boot_ns != 0 && (before == 0 || boot_ns < before))
        wake(w); /* a later one it sees when the earlier one comes */
}

void watchdog_set_deadline(struct watchdog *w, uint64_t boot_ns)
{
    set(w, &w->page->deadline_ns, boot_ns);
}

void watchdog_set_turn(struct watchdog *w, uint64_t boot_ns, uint64_t stopped_ns)
{
    set(w, &w->page->turn_ns, boot_ns);
    set(w, &w->page->stopped_ns, stopped_ns);
}

unsigned watchdog_fired(const struct watchdog *w)
{
    return atomic_load(&w->page->fired);
}

void watchdog_stop(struct watchdog *w)
{
    if (w == NULL)
        return;
    atomic_store(&w->page->orderly, true);
    (void)close(w->wake);
    (void)waitid(P_PID, (id_t)w->pid, &(siginfo_t){0}, WEXITED); /* it ends at once */
    (void)munmap(w->page, sizeof *w->page);
    free(w);
}
