/* The rendered families of one instance's queries. */
#include <string.h>

#include "metrics/poller_impl.h"
#include "metrics/render.h"

static void replace(struct samples **place, struct samples *samples)
{
    samples_free(*place);
    *place = samples;
}

#define HASH_PRIME 0x9e3779b97f4a7c15ull

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * HASH_PRIME;
    return h ^ (h >> 32);
}

static uint64_t hash_bytes(uint64_t h, const char *bytes, size_t length)
{
    uint64_t word;
    for (; length >= sizeof word; bytes += sizeof word, length -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        h = mix(h, word);
    }
    word = 0;
    memcpy(&word, bytes, length);
    return mix(h, word);
}

/* Of everything that the samples are rendered from; the query stays that of the slot. */
static uint64_t fingerprint(const struct poller *p, const PGresult *result)
{
    uint64_t h = hash_bytes((uint64_t)p->server_version, p->labels, strlen(p->labels));
    int columns = PQnfields(result);
    for (int row = 0; row < PQntuples(result); row++)
        for (int c = 0; c < columns; c++) {
            size_t length = (size_t)PQgetlength(result, row, c);
            h = mix(h, length != 0 ? length + 1 : (size_t)PQgetisnull(result, row, c));
            h = hash_bytes(h, PQgetvalue(result, row, c), length);
        }
    return mix(h, (uint64_t)PQntuples(result));
}

void poller_text_take(struct poller *p, struct poller_slot *slot, const struct pg_reply *reply)
{
    const struct query *query = query_get(slot->query);
    if (slot->failed || reply->count == 0 || (query->column_count == 0 && !query->dynamic))
        return;
    const PGresult *result = reply->results[reply->count - 1];
    uint64_t found = fingerprint(p, result);
    slot->rendered_ns = loop_now(p->pollers->loop);
    if (slot->samples != NULL && slot->fingerprint == found)
        return; /* most settings, locks and sizes never change */
    slot->fingerprint = found;
    slot->version = ++p->pollers->versions;
    replace(&slot->samples,
            render_result(query, result, p->labels, p->pollers->dynamic, &p->pollers->counts.series_dropped));
}

void poller_text_free(struct poller *p)
{
    for (int q = 0; q < QUERIES; q++)
        samples_free(p->slots[q].samples);
}
