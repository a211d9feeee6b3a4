/*
 * event_queue: which Event to make or to bring up to date next. No I/O, no clock; event.h is what others use.
 *
 * Everything that is said is a series: object, type, reason, action and note. Its first saying makes an Event
 * (POST), later ones within six minutes raise its count (PATCH), at once for the second and each 30 s after
 * that.
 */
#ifndef K8S_EVENT_QUEUE_H
#define K8S_EVENT_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "k8s/event.h"

struct event_queue;

struct event_request {
    const char *method; /* "POST" or "PATCH" */
    const char *path;
    const char *content_type;
    const char *body; /* all valid until the answer */
};

/* env: names and times of Events only. */
struct event_queue *event_queue_new(struct env *env, const struct k8s_reporter *reporter);
void event_queue_free(struct event_queue *q);

void event_queue_emit(struct event_queue *q, uint64_t now_ns, const struct k8s_reference *regarding,
                      enum k8s_event_type type, const char *reason, const char *action, const char *note);

/* True: send this, then call event_queue_answer(), before the next. flush: also what is not due yet. */
bool event_queue_next(struct event_queue *q, uint64_t now_ns, bool flush, struct event_request *ret);

/* HTTP status, 0 = no answer. True if the Event was refused for good. */
bool event_queue_answer(struct event_queue *q, uint64_t now_ns, int status);

/* When event_queue_next() will have something, 0 = not before the next emit. */
uint64_t event_queue_due(const struct event_queue *q);

void event_queue_facts(const struct event_queue *q, struct k8s_events_facts *ret);

#endif
