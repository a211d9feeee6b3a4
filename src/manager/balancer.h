/*
 * balancer: each second, for each database, facts to balance_decide() and its changes to operations.
 *
 * Keeps the newest decisions and refusals for the API, with their numbers of rules, and counts them by rule.
 * Owns the samplers. Does nothing while the manager does not lead (operations.services.term == 0).
 */
#ifndef MANAGER_BALANCER_H
#define MANAGER_BALANCER_H

#include "balance/balance.h"
#include "fleet/fleet.h"
#include "metrics/poller.h"
#include "operation/operation.h"

#define BALANCER_KEPT 1000

struct balancer_decision {
    uint64_t number; /* 1, 2, ... since the start of the manager */
    int64_t at_us;   /* wall clock */
    char database[BALANCE_NAME_SIZE];
    struct balance_change change;
    char operation[OPERATION_ID_SIZE]; /* started by it, "" = none */
};

struct balancer;

struct balancer_options {
    struct loop *loop;
    struct fleet *fleet;
    struct operations *operations;
    const struct pollers *pollers;
    uint64_t sample_ns; /* between load polls */
    /* A new decision was kept. */
    void (*decided)(const struct balancer_decision *decision, void *data);
    void *data;
};

struct balancer *balancer_start(const struct balancer_options *options);
/* `closed` (may be NULL) runs when no sampler is left. */
void balancer_stop(struct balancer *b, void (*closed)(void *data), void *data);

/* A database was deleted: its state goes. */
void balancer_forget(struct balancer *b, const char *database);
/* A move of this shard ended now: the cool-down starts. Those of earlier managers are read from the journal.
 */
void balancer_move_ended(struct balancer *b, const char *database, const char *shard);

/* The n-th newest decision (0 = newest) or NULL. */
const struct balancer_decision *balancer_decision(const struct balancer *b, unsigned n);
/* Of a database since the start, by rule number. */
uint64_t balancer_count(const struct balancer *b, const char *database, int rule);
/* What stands for a shard; NULL if not known. */
const struct balance_shard_state *balancer_shard(const struct balancer *b, const char *database,
                                                 const char *shard);

#endif
