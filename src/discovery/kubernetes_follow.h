/*
 * kubernetes_follow: a routing table whose shards are where their instances are now. Pure.
 *
 * A table keeps what a shard is reached at: a DNS name wherever there is one, which stays. An address of a
 * pod does not: when a shard's primary address is that of no instance, and exactly one instance that the
 * cluster found (sources kubernetes, cnpg, cnpg-other, label, image) belongs to the shard and is not known to
 * be a standby, the shard is there. Anything else is left alone: whether to promote is not decided here.
 */
#ifndef DISCOVERY_KUBERNETES_FOLLOW_H
#define DISCOVERY_KUBERNETES_FOLLOW_H

struct fleet;
struct fleet_database;
struct routing;

/* A changed copy with the next epoch, or NULL: everything is where it should be. */
struct routing *kubernetes_follow(const struct fleet *fleet, const struct fleet_database *db);

#endif
