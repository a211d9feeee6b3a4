/* Questions of others over the connections of the polls: each goes out behind the next poll. */
#include <stdlib.h>

#include "base/mem.h"
#include "metrics/poller_impl.h"

struct poll_question {
    struct list node; /* in poller.questions until it is sent */
    struct loop *loop;
    struct poller *poller;
    const char *sql;
    poll_answer_cb answered; /* NULL: forgotten */
    void *data;
    struct loop_task end; /* it failed */
    struct err err;
};

static void question_end(struct poll_question *q, const struct pg_reply *reply)
{
    poll_answer_cb answered = q->answered;
    void *data = q->data;
    if (answered != NULL)
        answered(reply, data);
    free(q);
}

static void end_failed(struct loop_task *task, void *data)
{
    struct poll_question *q = data;
    const struct pg_reply reply = {.err = &q->err};
    (void)task;
    question_end(q, &reply);
}

/* Later: whoever drops a connection is in the middle of something. */
static void question_fail(struct poll_question *q, const struct err *err)
{
    err_copy(&q->err, err);
    list_remove(&q->node);
    loop_defer(q->loop, &q->end);
}

static void on_reply(struct pg_conn *conn, const struct pg_reply *reply, void *data)
{
    struct poll_question *q = data;
    if (q->poller->conn == conn)
        q->poller->asked--;
    if (reply->err != NULL)
        question_fail(q, reply->err);
    else
        question_end(q, reply);
}

void poller_questions_send(struct poller *p)
{
    const struct err closed = {.code = ERRC_CLOSED, .message = "the connection is not ready"};
    list_each(node, &p->questions)
    {
        struct poll_question *q = list_item(node, struct poll_question, node);
        const struct pg_request request = {
            .sql = q->sql,
            .extended = true,
            .timeout_ns = p->pollers->options.deadline_ns + POLL_SLOW_EXTRA_NS,
            .patience_ns = POLL_PATIENCE_NS,
        };
        list_remove(&q->node);
        p->asked++;
        if (pg_send(p->conn, &request, on_reply, q, NULL) != 0) {
            p->asked--;
            question_fail(q, &closed);
        }
    }
}

void poller_questions_fail(struct poller *p, const struct err *err)
{
    list_each(node, &p->questions)
    {
        question_fail(list_item(node, struct poll_question, node), err);
    }
}

struct poll_question *pollers_ask(struct pollers *pollers, const struct fleet_instance *instance,
                                  const char *sql, poll_answer_cb cb, void *data)
{
    struct poller *p = instance->observer;
    if (p == NULL)
        return NULL;
    struct poll_question *q = mem_zalloc(sizeof *q);
    q->loop = pollers->loop;
    q->poller = p;
    q->sql = sql;
    q->answered = cb;
    q->data = data;
    q->end = (struct loop_task){.run = end_failed, .data = q};
    list_append(&p->questions, &q->node);
    return q;
}

void poll_question_forget(struct poll_question *question)
{
    question->answered = NULL;
}
