/* The connections of the clients: one for each client and server, made ahead of need, so that a shard that
 * appears in the table is connected before it owns anything. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/load_impl.h"

#define RETRY_FIRST (20 * ENV_NS_PER_MS)
#define RETRY_MAX   (1000 * ENV_NS_PER_MS)

void load_target(const struct load *load, const char *host, int port, char password[LOAD_PASSWORD_SIZE],
                 struct pg_target *ret)
{
    const struct load_options *o = &load->o;
    *ret = (struct pg_target){
        .host = host,
        .port = port,
        .dbname = o->dbname,
        .user = o->user,
        .password = o->password,
        .sslmode = o->sslmode,
        .sslrootcert = o->sslrootcert,
        .sslcert = o->sslcert,
        .sslkey = o->sslkey,
        .application_name = "shardherd-load",
    };
    if (ret->password == NULL &&
        load_pass_find(&load->pass, host, port, o->dbname, o->user, password, LOAD_PASSWORD_SIZE))
        ret->password = password;
}

static unsigned server_index(struct load *load, const struct routing_address *address)
{
    for (unsigned i = 0; i < load->server_count; i++) {
        if (load->servers[i].port == address->port && strcmp(load->servers[i].host, address->host) == 0)
            return i;
    }
    if (load->server_count == LOAD_SERVERS_MAX) {
        struct err err;
        err_set(&err, ERRC_LIMIT, "more than %d server addresses were seen", LOAD_SERVERS_MAX);
        load_fail(load, &err);
        return 0;
    }
    load->servers[load->server_count] = (struct load_server){mem_strdup(address->host), address->port};
    return load->server_count++;
}

static uint16_t *map_servers(struct load *load, const struct routing *r)
{
    if (r == NULL)
        return NULL;
    uint16_t *map = mem_array(r->shard_count, sizeof *map);
    for (size_t i = 0; i < r->shard_count; i++)
        map[i] = (uint16_t)server_index(load, &r->shards[i].primary);
    return map;
}

static bool is_listed(const struct load *load, const struct load_link *link)
{
    for (size_t i = 0; load->route.now != NULL && i < load->route.now->shard_count; i++) {
        if (&load->servers[load->now_servers[i]] == link->server)
            return true;
    }
    return false;
}

void load_servers_learn(struct load *load)
{
    free(load->now_servers);
    free(load->before_servers);
    load->now_servers = map_servers(load, load->route.now);
    load->before_servers = map_servers(load, load->route.before);
    if (load->clients == NULL || sm_now(&load->sm) > LOAD_DRAINING)
        return;
    for (unsigned c = 0; c < load->o.clients; c++) {
        load_links_prune(&load->clients[c]);
        for (size_t i = 0; i < load->route.now->shard_count; i++)
            load_link_want(load_link_get(&load->clients[c], load->now_servers[i]));
    }
}

/* ---- one link ---- */

static void link_fired(struct loop_timer *timer, void *data)
{
    (void)timer;
    load_link_want(data);
}

struct load_link *load_link_get(struct load_client *client, unsigned server)
{
    struct load_link **place = &client->links[server];
    if (*place == NULL) {
        *place = mem_zalloc(sizeof **place);
        (*place)->client = client;
        (*place)->server = &client->load->servers[server];
        loop_timer_init(client->load->loop, &(*place)->retry, link_fired, *place);
    }
    return *place;
}

static void link_down(struct load_link *link, const struct err *err)
{
    struct load *load = link->client->load;
    struct pg_conn *conn = link->conn;
    uint64_t delay = RETRY_FIRST << (link->failures < 6 ? link->failures : 6);
    link->conn = NULL;
    link->state = LINK_DOWN;
    link->epoch = 0;
    link->failures++;
    if (err != NULL)
        err_copy(&load->last_error, err);
    pg_conn_close(conn, load_closed, load);
    if (sm_now(&load->sm) <= LOAD_DRAINING && is_listed(load, link))
        loop_timer_start(&link->retry, delay < RETRY_MAX ? delay : RETRY_MAX);
}

static void link_settled(struct load_link *link)
{
    struct load *load = link->client->load;
    if (--load->connecting == 0 && !load->warm)
        loop_defer(load->loop, &load->turn);
}

static void link_connected(struct pg_conn *conn, const struct err *err, void *data)
{
    struct load_link *link = data;
    if (link->conn != conn)
        return; /* closed by us */
    link_settled(link);
    if (err != NULL) {
        load_stats_error(&link->client->load->stats, err->code == ERRC_SQL ? err->sqlstate : "connect");
        link_down(link, err);
        load_route_refresh(&link->client->load->route); /* it may have been taken away */
        return;
    }
    link->state = LINK_READY;
    link->failures = 0;
    load_client_link_ready(link->client, link);
}

static void link_lost(struct pg_conn *conn, const struct err *err, void *data)
{
    struct load_link *link = data;
    if (link->conn == conn)
        link_down(link, err);
}

void load_link_want(struct load_link *link)
{
    static const struct pg_conn_events events = {.connected = link_connected, .lost = link_lost};
    struct load *load = link->client->load;
    char password[LOAD_PASSWORD_SIZE];
    struct pg_target target;
    struct err err = {0};
    if (link->state != LINK_DOWN || loop_timer_armed(&link->retry) || sm_now(&load->sm) > LOAD_DRAINING ||
        !is_listed(load, link))
        return;
    load_target(load, link->server->host, link->server->port, password, &target);
    link->conn = pg_conn_new(load->loop, &target, &events, link);
    explicit_bzero(password, sizeof password);
    load_opened(load);
    link->state = LINK_CONNECTING;
    load->connecting++;
    if (pg_conn_connect(link->conn, &err) != 0) {
        link_settled(link);
        link_down(link, &err);
    }
}

static void link_leave(struct load_link *link)
{
    struct load *load = link->client->load;
    struct pg_conn *conn = link->conn;
    loop_timer_stop(&link->retry);
    if (link->state == LINK_CONNECTING)
        link_settled(link);
    link->conn = NULL;
    link->state = LINK_DOWN;
    link->epoch = 0;
    link->failures = 0;
    if (conn != NULL)
        pg_conn_close(conn, load_closed, load);
}

void load_links_prune(struct load_client *client)
{
    client->prune_due = false;
    for (unsigned i = 0; i < client->load->server_count; i++) {
        struct load_link *link = client->links[i];
        if (link == NULL || is_listed(client->load, link))
            continue;
        if (client->waiting > 0 && client->link == link)
            client->prune_due = true;
        else
            link_leave(link);
    }
}

void load_links_close(struct load_client *client)
{
    struct load *load = client->load;
    for (unsigned i = 0; i < LOAD_SERVERS_MAX; i++) {
        struct load_link *link = client->links[i];
        if (link == NULL)
            continue;
        loop_timer_stop(&link->retry);
        struct pg_conn *conn = link->conn;
        link->conn = NULL;
        link->state = LINK_DOWN;
        if (conn != NULL)
            pg_conn_close(conn, load_closed, load);
    }
}
