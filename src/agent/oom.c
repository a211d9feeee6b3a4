#include "agent/oom.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent_files.h"
#include "base/env.h"
#include "base/log.h"
#include "base/text.h"

#define OWN_FILE  "/proc/self/oom_score_adj"
#define PROTECTED (-900) /* not -1000: that is never ended, and memory may be short because of it */
#define ABOVE     200    /* a fifth of the memory that there is */
#define MOST      1000

static int64_t own_score(void)
{
    char text[16];
    int64_t score = 0;
    (void)agent_text_read(OWN_FILE, text, sizeof text);
    text[strcspn(text, "\n")] = '\0';
    return text_to_int64(text, &score) ? score : 0;
}

/* Refused to who may not: then it stays as it is. */
static void lower(void)
{
    char text[16];
    int length = snprintf(text, sizeof text, "%d", PROTECTED);
    int fd = open(OWN_FILE, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, (size_t)length) != length)
        log_event(LOG_DEBUG,
                  "the kernel may end this agent when memory is short: its score cannot be lowered", "err",
                  strerror(errno), NULL);
    if (fd >= 0)
        (void)close(fd);
}

void oom_protect(struct env *env)
{
    char value[16];
    if (own_score() > PROTECTED)
        lower();
    int64_t own = own_score(), theirs = own < 0 ? 0 : own + ABOVE < MOST ? own + ABOVE : MOST;
    (void)snprintf(value, sizeof value, "%lld", (long long)theirs);
    if (env->get(env, "PG_OOM_ADJUST_FILE") != NULL)
        return;
    (void)setenv("PG_OOM_ADJUST_FILE", OWN_FILE, 1);
    (void)setenv("PG_OOM_ADJUST_VALUE", value, 1);
}
