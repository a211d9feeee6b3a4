/*
 * etcd_call: one request to a cluster of etcd members: which member, with which token, how often.
 *
 * A call is tried at one member after the other until one gives an answer that counts, or its time is up
 * (E8). Bodies must therefore be such that repeating them does no harm: reads, and transactions whose
 * compares fail once they were applied. A token that the cluster does not take (any more) is replaced once
 * per call (E5); what was not executed for want of a token is no unknown outcome. A member that belongs to
 * another cluster than the first that answered is not listened to.
 */
#ifndef STORE_ETCD_CALL_H
#define STORE_ETCD_CALL_H

#include <yyjson.h>

#include "http/http_client.h"
#include "store/etcd_message.h"
#include "loop/loop.h"

#define ETCD_TRY_NS   (5 * ENV_NS_PER_S)  /* of one try: etcd's own limit of a request */
#define ETCD_LIMIT_NS (30 * ENV_NS_PER_S) /* of a call */

struct tls_context;
struct etcd_client;
struct etcd_call;

struct etcd_client_options {
    const char *const *endpoints; /* "https://10.0.0.5:2379"; at least one; copied */
    int endpoint_count;
    const char *user, *password; /* NULL = no logging in; copied */
    struct tls_context *tls;     /* NULL = the system's trust */
};

/* ERRC_INVALID naming the endpoint that is no URL. */
int etcd_client_new(struct loop *loop, const struct etcd_client_options *options, struct etcd_client **ret,
                    struct err *err);
/* Cancels the calls, whose callbacks come, and streams; `closed` runs last. */
void etcd_client_close(struct etcd_client *client, void (*closed)(void *data), void *data);
/* From now on a try that failed is not repeated: running calls end with it. */
void etcd_client_hurry(struct etcd_client *client);
struct loop *etcd_client_loop(const struct etcd_client *client);

struct etcd_request {
    const char *path; /* "/v3/kv/range", static */
    const char *body; /* copied */
    size_t body_length;
    uint64_t try_ns;   /* 0 = ETCD_TRY_NS */
    uint64_t limit_ns; /* 0 = ETCD_LIMIT_NS */
    bool once;         /* one try, the caller has its own patience (and a second one with a new token) */
};

struct etcd_answer {
    const struct err *err; /* NULL = `root` is what was asked for */
    enum etcd_fault fault; /* of err; ENDPOINT also when no member answered in time */
    /* A try before this answer may have been executed, or still will be: the outcome of err = ENDPOINT is
     * unknown, and a transaction that now fails may be one that was applied (E6). */
    bool unknown;
    yyjson_val *root; /* JSON; of streamed answers the first line */
};
typedef void (*etcd_answer_cb)(const struct etcd_answer *answer, void *data);

int etcd_call_start(struct etcd_client *client, const struct etcd_request *request, etcd_answer_cb cb,
                    void *data, struct etcd_call **ret, struct err *err);
void etcd_call_cancel(struct etcd_call *call);

/* ---- for streams, which are single tries ---- */

/* The http call of a stream at the present member with the present token; *ret_token names that token. */
int etcd_stream_start(struct etcd_client *client, const char *path, const char *body,
                      const struct http_call_options *like, http_answer_cb cb, void *data,
                      struct http_call **ret, uint64_t *ret_token, struct err *err);
/* The cluster did not take it: the next call logs in first. */
void etcd_token_rejected(struct etcd_client *client, uint64_t token);
/* Turns to the next member, if `endpoint` of a stream that began at etcd_endpoint() is still the present. */
int etcd_endpoint(const struct etcd_client *client);
void etcd_endpoint_failed(struct etcd_client *client, int endpoint);
/* False = this answer comes from another cluster. */
bool etcd_cluster_fits(struct etcd_client *client, int64_t cluster);

#endif
