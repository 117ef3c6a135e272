/* What Python is told. Handshake messages wait in a bounded ring; a full ring drops and counts.
 * Events about a peer, link or path are bits on that object, which waits in a queue at most once:
 * they cannot be lost, need no room, and say the newest state when they are read. An eventfd is
 * raised whenever anything waits. */
#ifndef TC_EVENTS_H
#define TC_EVENTS_H

#include <pthread.h>

#include "core.h"

struct tc_peer;

typedef struct {
    pthread_mutex_t lock; /* a leaf: guards everything below */
    int fd;
    bool raised;
    tc_event *ring;
    uint32_t slots;
    uint32_t head;    /* oldest */
    uint32_t waiting; /* messages in the ring */
    struct tc_peer *first, *last;
    int32_t link_error[TC_MAX_WORKERS];
    int32_t outer_error[TC_MAX_PATHS];
    _Atomic uint32_t load; /* a copy of waiting, read without the lock */
} tc_events;

int tc_events_init(tc_events *events, uint32_t slots);
void tc_events_free(tc_events *events);
/* False when the ring is full. */
bool tc_events_message(tc_events *events, uint32_t kind, const tc_endpoint *from,
                       const uint8_t *data, uint32_t length);
/* kind is TC_EVENT_HANDSHAKE_NEEDED to TC_EVENT_ENDPOINT. */
void tc_events_peer(tc_events *events, struct tc_peer *peer, uint32_t kind);
void tc_events_link(tc_events *events, uint32_t worker, int error);
void tc_events_outer(tc_events *events, uint32_t path, int error);
/* Takes a removed peer out. The caller holds the engine's exclusive lock. */
void tc_events_forget(tc_events *events, struct tc_peer *peer);
/* Moves up to count events out. The caller holds the engine's lock, shared or exclusive. */
uint32_t tc_events_take(tc_events *events, tc_event *out, uint32_t count);

#endif
