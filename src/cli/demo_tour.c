/*
 * After the automatic split, what an administrator asks for, under the same load: the hottest key gets a
 * shard of its own, that is taken back, and the new shard is merged into the one it came from.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/demo_impl.h"
#include "cli/session.h"

#define HOT_KEY       "7"
#define HOT_KEY_SHARE "0.3"
#define BAKE          "60s"
#define LOOK_AT_NS    (3 * ENV_NS_PER_S) /* between an isolation and its rollback */

static double block_ms(yyjson_val *operation)
{
    double us = (double)NAN;
    (void)text_to_double(json_get_text(yyjson_obj_get(operation, "record"), "write_block_us"), &us);
    return us / 1e3;
}

static void on_accepted(struct demo *d, const struct err *err, yyjson_val *root)
{
    struct demo_tour *t = &d->tour;
    if (demo_now(d) != DEMO_TOUR)
        return;
    if (err != NULL)
        demo_fail(d, err);
    else
        (void)snprintf(t->operation, sizeof t->operation, "%s", json_get_text(root, "id"));
}

static void ask_move(struct demo *d, char *body)
{
    d->tour.state[0] = '\0';
    demo_api(d, "POST", "/v1/databases/shop/operations", body, on_accepted);
    free(body);
}

/* ---- one key alone ---- */

static void on_route(struct demo *d, const struct err *err, yyjson_val *root)
{
    struct demo_tour *t = &d->tour;
    struct err local = {0};
    if (demo_now(d) != DEMO_TOUR)
        return;
    if (err != NULL || load_set_skew(d->load, "hot-key=" HOT_KEY ":" HOT_KEY_SHARE, &local) != 0) {
        demo_fail(d, err != NULL ? err : &local);
        return;
    }
    (void)snprintf(t->source, sizeof t->source, "%s", json_get_text(root, "shard"));
    demo_story_say(&d->story, TONE_HOT,
                   "the load shifts again: 30 of 100 operations are of customer " HOT_KEY
                   " alone, on shard %s. A split would not help: we ask for a shard of its own",
                   t->source);
    t->part = TOUR_ISOLATE;
    ask_move(d, mem_printf("{\"kind\":\"isolate\",\"shard\":\"%s\",\"key\":\"" HOT_KEY "\",\"bake\":\"" BAKE
                           "\"}",
                           t->source));
}

static void on_recommended(struct demo *d, const struct err *err, yyjson_val *root)
{
    (void)root;
    if (demo_now(d) != DEMO_TOUR)
        return;
    if (err != NULL)
        demo_fail(d, err);
    else
        demo_api(d, "GET", "/v1/databases/shop/route?key=" HOT_KEY, NULL, on_route);
}

void demo_enter_tour(struct demo *d)
{
    char *specification = demo_specification(d); /* from here on nothing is decided by itself */
    demo_api(d, "PUT", "/v1/databases/shop", specification, on_recommended);
    free(specification);
}

/* ---- taken back ---- */

static void on_going_back(struct demo *d, const struct err *err, yyjson_val *root)
{
    (void)root;
    if (err != NULL && demo_now(d) == DEMO_TOUR)
        demo_fail(d, err);
}

void demo_tour_waited(struct demo *d)
{
    struct demo_tour *t = &d->tour;
    char *path = mem_printf("/v1/operations/%s/rollback", t->operation);
    demo_story_say(&d->story, TONE_HEAD,
                   "we change our mind: rollback. What was written to customer " HOT_KEY
                   " meanwhile goes back with it");
    t->part = TOUR_ROLLBACK;
    demo_api(d, "POST", path, NULL, on_going_back);
    free(path);
}

/* ---- merged ---- */

static void merge(struct demo *d)
{
    struct err err = {0};
    if (load_set_skew(d->load, "uniform", &err) != 0) {
        demo_fail(d, &err);
        return;
    }
    demo_story_say(&d->story, TONE_HEAD,
                   "the load is even again; we merge shard %s back into %s, and its server goes",
                   d->facts.target, d->facts.source);
    d->tour.part = TOUR_MERGE;
    ask_move(d, mem_printf("{\"kind\":\"merge\",\"shard\":\"%s\",\"target\":\"%s\",\"bake\":\"0s\"}",
                           d->facts.target, d->facts.source));
}

/* ---- what is heard of them ---- */

static void switched(struct demo *d, yyjson_val *operation)
{
    struct demo_tour *t = &d->tour;
    t->block_ms[t->part] = block_ms(operation);
    static const char *const said[TOUR_PARTS] = {
        [TOUR_ISOLATE] = "customer " HOT_KEY " has a shard of its own",
        [TOUR_ROLLBACK] = "customer " HOT_KEY " is back where it was",
        [TOUR_MERGE] = "two shards own everything again",
    };
    demo_story_say(&d->story, TONE_GOOD, "%s; writes were blocked for %.1f ms", said[t->part],
                   t->block_ms[t->part]);
    if (t->part == TOUR_ISOLATE)
        loop_timer_start(&d->wait, LOOK_AT_NS);
}

static void part_ended(struct demo *d, yyjson_val *operation)
{
    struct demo_tour *t = &d->tour;
    const char *wanted = t->part == TOUR_MERGE ? "done" : "undone",
               *status = json_get_text(operation, "status");
    d->view.task = NULL;
    if (t->part == TOUR_ISOLATE || strcmp(status, wanted) != 0 || isnan(t->block_ms[t->part]))
        demo_failf(d, "operation %s ended as \"%s\": %s", t->operation, status,
                   json_get_text(yyjson_obj_get(operation, "error"), "message"));
    else if (t->part == TOUR_MERGE)
        demo_go(d, DEMO_CHECK);
    else
        merge(d);
}

void demo_tour_operation(struct demo *d, yyjson_val *operation)
{
    struct demo_tour *t = &d->tour;
    const char *state = json_get_text(operation, "state");
    if (demo_now(d) != DEMO_TOUR || t->operation[0] == '\0' ||
        strcmp(json_get_text(operation, "id"), t->operation) != 0)
        return;
    bool entered = strcmp(t->state, state) != 0;
    (void)snprintf(t->state, sizeof t->state, "%s", state);
    d->view.task = t->state;
    d->view.task_share = yyjson_get_num(yyjson_obj_get(operation, "progress"));
    d->view.task_text[0] = '\0';
    if (entered && strcmp(state, "settle") == 0)
        switched(d, operation);
    if (strcmp(json_get_text(operation, "status"), "running") != 0)
        part_ended(d, operation);
}
