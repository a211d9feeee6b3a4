/* Whom the certificates of a shard's agents have to be signed by: what the file of its members' access says.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "loop/tls.h"
#include "loop/work.h"
#include "manager/ha_shards_impl.h"

#define AGAIN_NS    (5 * ENV_NS_PER_S) /* authorities are renewed */
#define LARGEST     (256u * 1024)
#define FIRST_AGAIN ENV_NS_PER_S /* as long as it was not read */

struct reading {
    struct work work;
    struct ha_shards *all;
    char *database, *shard, *path;
    char *text; /* NULL = it could not be read */
    struct err err;
};

static void reading_run(struct work *work)
{
    struct reading *r = work->data;
    int fd = open(r->path, O_RDONLY | O_CLOEXEC);
    char *text = mem_alloc(LARGEST + 1);
    ssize_t n = fd >= 0 ? read(fd, text, LARGEST) : -1;
    if (n < 0)
        (void)err_set_errno(&r->err, errno, "cannot read %s", r->path);
    if (fd >= 0)
        (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    r->text = n > 0 ? mem_strdup(text) : NULL;
    free(text);
}

static void take(struct kept_shard *k, struct reading *r)
{
    k->authority_reading = false;
    k->authority_ns = loop_now(r->all->o.loop) + (r->text != NULL ? AGAIN_NS : FIRST_AGAIN);
    if (r->text == NULL) {
        log_event(LOG_WARN, "the authority of the shard's agents is not known", "db", k->database, "shard",
                  k->shard, "err", r->err.message, NULL);
        return; /* one that was read before holds */
    }
    free(k->authority);
    k->authority = r->text;
    r->text = NULL;
}

static void reading_done(struct work *work, int code)
{
    struct reading *r = work->data;
    struct ha_shards *h = r->all;
    struct kept_shard *k = ha_shards_find(h, r->database, r->shard);
    (void)code;
    if (k != NULL)
        take(k, r);
    free(r->database);
    free(r->shard);
    free(r->path);
    free(r->text);
    free(r);
    ha_shards_turn_soon(h);
    ha_shards_settle(h);
}

static const char *path_of(const struct kept_shard *k)
{
    list_each(node, &k->all->o.fleet->instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        if (ha_shards_owner(k, i) && i->access.sslrootcert != NULL && i->access.sslrootcert[0] != '\0' &&
            ha_members_tls(i))
            return i->access.sslrootcert;
    }
    return NULL;
}

bool ha_tls_known(struct kept_shard *k)
{
    const char *path = path_of(k);
    struct ha_shards *h = k->all;
    if (path == NULL)
        return true;
    if (k->authority_reading || loop_now(h->o.loop) < k->authority_ns)
        return k->authority != NULL;
    struct reading *r = mem_zalloc(sizeof *r);
    r->all = h;
    r->database = mem_strdup(k->database);
    r->shard = mem_strdup(k->shard);
    r->path = mem_strdup(path);
    if (work_start(h->o.loop, &r->work, reading_run, reading_done, r) == 0) {
        k->authority_reading = true;
        h->open++;
    } else {
        free(r->database);
        free(r->shard);
        free(r->path);
        free(r);
    }
    return k->authority != NULL;
}

struct tls_context *ha_tls_context(const struct kept_shard *k, struct err *err)
{
    const struct tls_options options = {.verify_peer = true, .ca_pem = k->authority};
    struct tls_context *tls = NULL;
    if (k->authority != NULL)
        (void)tls_context_new(&options, &tls, err);
    return tls;
}
