/* Workers: threads that run to completion. Each owns one link and a pair of UDP sockets for each
 * path, waits for any of them, and does everything to a batch before it waits again. */
#ifndef TC_WORKER_H
#define TC_WORKER_H

#include <pthread.h>

#include "core.h"
#include "counters.h"
#include "gather.h"
#include "host.h"
#include "icmp.h"
#include "link.h"
#include "outer.h"
#include "place.h"
#include "receive.h"
#include "send.h"
#include "uplink.h"
#include "urgency.h"
#include "waker.h"

struct tc_engine;

/* What an epoll event is about. The descriptor itself is looked up under the lock. */
enum { TC_SLOT_WAKE = 0, TC_SLOT_LINK = 1, TC_SLOT_PORT = 2 };
enum { TC_SLOT_OUTER = 3 /* + TC_OUTER_SOCKETS * path + 0: IPv4, 1: IPv6, 2: connected */ };
enum { TC_SLOTS = TC_SLOT_OUTER + TC_OUTER_SOCKETS * TC_MAX_PATHS };

typedef struct tc_worker {
    struct tc_engine *engine;
    uint32_t index;
    pthread_t thread;
    int epoll;
    int wake; /* eventfd */
    /* Descriptors change under the exclusive lock. */
    tc_link link;
    tc_outer outers[TC_MAX_PATHS];
    tc_uplink uplinks[TC_MAX_PATHS]; /* of whose turn it is */
    uint32_t attached;               /* times that outers were */
    tc_waker waker;
    tc_counters counters;
    tc_host host;
    tc_urgency urgency; /* the thread's own */
    /* Of whose turn it is: the thread, or the host. */
    tc_icmp_limit icmp;
    tc_gather gather;
    bool waited; /* for the round that is going on */
    tc_place place;
    uint32_t watched; /* `attached` when the sockets were last watched for place's sake */
    int behind;       /* milliseconds until what waits for a full link or a slow path is tried
                         again; 0: nothing waits */
    tc_sender sender;
    tc_receiver receiver;
    uint8_t *input; /* TC_LINK_READ_BYTES */
} tc_worker;

int tc_worker_init(tc_worker *worker, struct tc_engine *engine, uint32_t index);
void tc_worker_free(tc_worker *worker);
int tc_worker_start(tc_worker *worker);
/* After engine.running was cleared. */
void tc_worker_join(tc_worker *worker);
/* For a host, which has the turns. One round, without a wait; whether anything was ready. */
bool tc_worker_turn(tc_worker *worker);
/* Sends units as tc_host_write has them, after what the link has if `drain`; whether the link was
 * given an answer to one. */
bool tc_worker_send(tc_worker *worker, const uint8_t *data, uint32_t size, bool drain);
/* The rest is for the exclusive lock (attach.c). Readiness of the descriptor is an event of that
 * slot. */
int tc_worker_watch(tc_worker *worker, int fd, uint32_t slot);
void tc_worker_drop_link(tc_worker *worker);
void tc_worker_drop_outer(tc_worker *worker, uint32_t path);
void tc_worker_drop_port(tc_worker *worker);

#endif
