/*
 * load_route: the routing table of one database, kept fresh from a file or from the manager's API.
 *
 * File: read every 200 ms. API: GET .../routing with If-None-Match every second, and its event stream; either
 * one is enough. Both also at once when load_route_refresh() asks (SHR01). Only tables with a higher epoch
 * are taken.
 */
#ifndef LOAD_LOAD_ROUTE_H
#define LOAD_LOAD_ROUTE_H

#include <stdbool.h>

#include "fleet/routing.h"
#include "http/http_client.h"
#include "load/load_file.h"
#include "loop/loop.h"

struct load_route {
    struct loop *loop;
    struct routing *now;    /* NULL until the first one came */
    struct routing *before; /* the one that `now` replaced, or NULL */
    struct err error;       /* why the last reading failed; ERRC_NONE after one that did not */
    /* A new table stands in now; the one before `before` is about to be freed. */
    void (*changed)(struct load_route *route, void *data);
    void (*closed)(void *data);
    void *data;

    const char *database;
    struct load_file file;
    bool from_file;
    char *url;
    char *events_url;
    char etag[64];
    struct http_client *http;
    struct http_call *call;
    struct http_call *events;
    struct sse_parser *sse;
    struct loop_timer poll;
    struct loop_timer events_retry;
    uint64_t read_ns; /* when the last reading began */
    bool reading;
    bool again; /* asked for while reading */
    bool closing;
    bool http_closed;
    struct loop_task close_task;
};

/* One of url and file is NULL. The texts are copied, but for database. */
int load_route_start(struct load_route *route, struct loop *loop, const char *database, const char *url,
                     const char *file, void (*changed)(struct load_route *, void *), void *data,
                     struct err *err);

/* Reads again soon: at once, or 2 ms after the last reading began. */
void load_route_refresh(struct load_route *route);

/* closed runs once, later; then the memory may go. */
void load_route_close(struct load_route *route, void (*closed)(void *data));

#endif
