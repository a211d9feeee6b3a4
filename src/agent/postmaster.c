#include "agent/postmaster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent_files.h"
#include "base/text.h"

#define SWEEP_STEP_MS 20
#define SWEEP_SOFT    50  /* steps until SIGKILL */
#define SWEEP_STEPS   500 /* steps until we give up */

/* ---- start ---- */

/* Between fork and exec: only what is safe in a child of a program with threads. */
static void child_run(const char *const *argv, pid_t parent, int error_fd)
{
    sigset_t none;
    int null = open("/dev/null", O_RDWR);
    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_DFL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)setsid();
    if (prctl(PR_SET_PDEATHSIG, SIGQUIT) == 0 && null >= 0 && dup2(null, STDIN_FILENO) >= 0 &&
        dup2(STDERR_FILENO, STDOUT_FILENO) >= 0) {
        if (getppid() != parent) /* it died before the kernel knew that we want to hear of it */
            _exit(1);
        (void)execvp(argv[0], (char *const *)(uintptr_t)argv);
    }
    int error = errno;
    (void)!write(error_fd, &error, sizeof error);
    _exit(1);
}

int postmaster_spawn(const char *const *argv, pid_t *ret, struct err *err)
{
    int ends[2], error = 0;
    pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_set_errno(err, errno, "cannot run %s", argv[0]);
    pid_t pid = fork();
    if (pid == 0)
        child_run(argv, parent, ends[1]);
    if (pid < 0)
        error = errno;
    (void)close(ends[1]);
    /* the end of the pipe is the exec; milliseconds */
    if (pid > 0 && read(ends[0], &error, sizeof error) != (ssize_t)sizeof error)
        error = 0;
    (void)close(ends[0]);
    if (error != 0 && pid > 0)
        (void)waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED); /* it exits after it told us */
    if (error != 0)
        return err_set_errno(err, error, "cannot run %s", argv[0]);
    *ret = pid;
    return 0;
}

/* ---- what is left ---- */

static bool is_named(const char *pid, const char *name)
{
    char path[300], text[32];
    (void)snprintf(path, sizeof path, "/proc/%s/comm", pid);
    (void)agent_text_read(path, text, sizeof text);
    text[strcspn(text, "\n")] = '\0';
    return strcmp(text, name) == 0;
}

static bool works_in(const char *pid, const char *folder)
{
    char path[300], text[4096];
    (void)snprintf(path, sizeof path, "/proc/%s/cwd", pid);
    ssize_t n = readlink(path, text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    return strcmp(text, folder) == 0;
}

int postmaster_signal_all(const char *data, int number)
{
    char *folder = realpath(data, NULL);
    DIR *dir = folder != NULL ? opendir("/proc") : NULL;
    const struct dirent *entry;
    int count = 0;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        int64_t pid;
        if (!text_to_int64(entry->d_name, &pid) || !works_in(entry->d_name, folder) ||
            !is_named(entry->d_name, "postgres"))
            continue;
        count++;
        (void)kill((pid_t)pid, number);
    }
    if (dir != NULL)
        (void)closedir(dir);
    free(folder);
    return count;
}

/* "T", or "t" in the hands of a tracer. */
bool postmaster_is_stopped(pid_t pid)
{
    char path[64], text[512];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *end = agent_text_read(path, text, sizeof text) ? strrchr(text, ')') : NULL;
    return end != NULL && end[1] == ' ' && (end[2] == 'T' || end[2] == 't');
}

void postmaster_pause_ms(int ms)
{
    (void)poll(NULL, 0, ms);
}

int postmaster_sweep(const char *data, struct err *err)
{
    for (int i = 0; i < SWEEP_STEPS; i++) {
        if (postmaster_signal_all(data, i == 0 ? SIGQUIT : i < SWEEP_SOFT ? 0 : SIGKILL) == 0)
            return 0;
        postmaster_pause_ms(SWEEP_STEP_MS);
    }
    return err_set(err, ERRC_TIMEOUT, "processes of PostgreSQL in %s do not end, even by SIGKILL", data);
}
