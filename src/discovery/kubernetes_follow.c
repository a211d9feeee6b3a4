#include "discovery/kubernetes_follow.h"

#include <string.h>

#include "fleet/fleet.h"

static bool from_cluster(const struct fleet_instance *instance)
{
    static const char *const sources[] = {"kubernetes", "cnpg", "cnpg-other", "label", "image"};
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
        if (strcmp(instance->source, sources[i]) == 0)
            return true;
    return false;
}

/* The one instance that can be the shard's primary; NULL if there is none, or several. */
static const struct fleet_instance *candidate(const struct fleet *fleet, const char *database,
                                              const char *shard)
{
    const struct fleet_instance *only = NULL;
    for (struct list *node = fleet->instances.next; node != &fleet->instances; node = node->next) {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (!from_cluster(i) || strcmp(i->database, database) != 0 || strcmp(i->shard, shard) != 0 ||
            i->facts.role == ROLE_STANDBY)
            continue;
        if (only != NULL)
            return NULL;
        only = i;
    }
    return only;
}

struct routing *kubernetes_follow(const struct fleet *fleet, const struct fleet_database *db)
{
    struct routing *changed = NULL;
    for (size_t i = 0; db->routing != NULL && i < db->routing->shard_count; i++) {
        const struct routing_shard *shard = &db->routing->shards[i];
        if (fleet_primary(fleet, db->name, shard->name) != NULL)
            continue;
        const struct fleet_instance *found = candidate(fleet, db->name, shard->name);
        if (found == NULL || found->access.host == NULL)
            continue;
        if (changed == NULL) {
            changed = routing_clone(db->routing);
            changed->epoch++;
        }
        routing_set_primary(&changed->shards[i], found->access.host, found->access.port);
    }
    return changed;
}
