/*
 * lease: an election on the wire, by one Lease object.
 */
#ifndef K8S_LEASE_H
#define K8S_LEASE_H

#include <stdbool.h>

#include "k8s/client.h"

struct k8s_lease;

struct k8s_lease_options {
    const char *name;
    const char *name_space;
    const char *identity; /* unique for each process that ever runs; plain ASCII without quotes */
    const char *dead;     /* see election.h */
    void (*won)(struct k8s_lease *lease, void *data);
    void (*lost)(struct k8s_lease *lease, void *data); /* not after k8s_lease_close() */
    void *data;
};

/* Stands for election at once, and again after each loss. The client must outlive the lease. */
struct k8s_lease *k8s_lease_start(struct k8s_client *client, const struct k8s_lease_options *options);

/* Everything that needed the leadership must have stopped. Gives it back (at most 5 s), then `closed`. */
void k8s_lease_close(struct k8s_lease *lease, void (*closed)(void *data), void *data);

/* To be asked before each write that only a leader may make: right after a pause of the process, too. */
bool k8s_lease_leads(const struct k8s_lease *lease);
const char *k8s_lease_holder(const struct k8s_lease *lease);

#endif
