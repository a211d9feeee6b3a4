/*
 * demo_story: the demo's output: lines of story with their times, and on a terminal a block below them that
 * is redrawn in place.
 */
#ifndef CLI_DEMO_STORY_H
#define CLI_DEMO_STORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "cli/demo_view.h"

enum demo_tone { TONE_PLAIN, TONE_HEAD, TONE_GOOD, TONE_HOT, TONE_BAD };

struct demo_story {
    struct env *env;
    bool live; /* stdout is a terminal that can be redrawn */
    struct demo_look look;
    uint64_t started_ns;
    unsigned block_lines; /* of the block that stands on the screen */
    uint64_t line_ns;     /* when the last line of figures was printed, if not live */
};

void demo_story_init(struct demo_story *story, struct env *env, bool color);
/* Seconds since the start. */
double demo_story_seconds(const struct demo_story *story);

/* One line (or a wrapped paragraph) with its time. */
void demo_story_say(struct demo_story *story, enum demo_tone tone, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Text as it is. */
void demo_story_print(struct demo_story *story, const char *text);
void demo_story_error(struct demo_story *story, const char *text);

/* Shows the figures: redrawn in place, or a line every few seconds. */
void demo_story_show(struct demo_story *story, const struct demo_view *view);
/* Takes the block away and gives the cursor back. */
void demo_story_end_block(struct demo_story *story);

#endif
