/* Events from the workers to Python's event loop. */
#include "events.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "peer.h"

int tc_events_init(tc_events *events, uint32_t slots) {
    *events = (tc_events){.slots = slots, .fd = -1};
    pthread_mutex_init(&events->lock, NULL);
    events->ring = calloc(slots, sizeof *events->ring);
    if (!events->ring)
        return -ENOMEM;
    events->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return events->fd < 0 ? -errno : 0;
}

void tc_events_free(tc_events *events) {
    if (events->fd >= 0)
        close(events->fd);
    free(events->ring);
    pthread_mutex_destroy(&events->lock);
}

/* Raised once until Python has taken everything, so that a busy ring costs no system calls. */
static void raise_fd(tc_events *events) {
    if (events->raised)
        return;
    events->raised = true;
    uint64_t one = 1;
    (void)!write(events->fd, &one, sizeof one);
}

bool tc_events_message(tc_events *events, uint32_t kind, const tc_endpoint *from,
                       const uint8_t *data, uint32_t length) {
    pthread_mutex_lock(&events->lock);
    bool room = events->waiting < events->slots && length <= TC_MESSAGE_MAX;
    if (room) {
        tc_event *event = &events->ring[(events->head + events->waiting) & (events->slots - 1)];
        *event = (tc_event){.kind = kind, .peer = TC_NO_PEER, .length = length, .endpoint = *from};
        memcpy(event->data, data, length);
        events->waiting++;
        atomic_store_explicit(&events->load, events->waiting, memory_order_relaxed);
        raise_fd(events);
    }
    pthread_mutex_unlock(&events->lock);
    return room;
}

void tc_events_peer(tc_events *events, struct tc_peer *peer, uint32_t kind) {
    pthread_mutex_lock(&events->lock);
    if (!peer->events) {
        peer->next_event = NULL;
        if (events->last)
            events->last->next_event = peer;
        else
            events->first = peer;
        events->last = peer;
    }
    peer->events |= 1u << kind;
    raise_fd(events);
    pthread_mutex_unlock(&events->lock);
}

void tc_events_link(tc_events *events, uint32_t worker, int error) {
    pthread_mutex_lock(&events->lock);
    events->link_error[worker] = error;
    raise_fd(events);
    pthread_mutex_unlock(&events->lock);
}

void tc_events_outer(tc_events *events, uint32_t path, int error) {
    pthread_mutex_lock(&events->lock);
    events->outer_error[path] = error;
    raise_fd(events);
    pthread_mutex_unlock(&events->lock);
}

void tc_events_forget(tc_events *events, struct tc_peer *peer) {
    pthread_mutex_lock(&events->lock);
    struct tc_peer *previous = NULL;
    for (struct tc_peer *p = events->first; p; previous = p, p = p->next_event) {
        if (p != peer)
            continue;
        if (previous)
            previous->next_event = p->next_event;
        else
            events->first = p->next_event;
        if (events->last == p)
            events->last = previous;
        break;
    }
    peer->events = 0;
    pthread_mutex_unlock(&events->lock);
}

static uint32_t take_faults(tc_events *events, tc_event *out, uint32_t count) {
    uint32_t taken = 0;
    for (uint32_t i = 0; i < TC_MAX_WORKERS && taken < count; i++) {
        if (!events->link_error[i])
            continue;
        out[taken++] = (tc_event){
            .kind = TC_EVENT_LINK_FAILED, .peer = TC_NO_PEER, .value = events->link_error[i]};
        events->link_error[i] = 0;
    }
    for (uint32_t i = 0; i < TC_MAX_PATHS && taken < count; i++) {
        if (!events->outer_error[i])
            continue;
        out[taken++] = (tc_event){.kind = TC_EVENT_OUTER_FAILED,
                                  .peer = TC_NO_PEER,
                                  .value = events->outer_error[i],
                                  .endpoint.path = (uint8_t)i};
        events->outer_error[i] = 0;
    }
    return taken;
}

static uint32_t take_peers(tc_events *events, tc_event *out, uint32_t count) {
    uint32_t taken = 0;
    while (events->first && taken < count) {
        struct tc_peer *peer = events->first;
        for (uint32_t kind = TC_EVENT_HANDSHAKE_NEEDED; kind <= TC_EVENT_ENDPOINT; kind++) {
            if (!(peer->events & 1u << kind) || taken == count)
                continue;
            peer->events &= ~(1u << kind);
            out[taken++] = (tc_event){.kind = kind, .peer = peer->id};
        }
        if (peer->events)
            break; /* out of room in the middle of it */
        events->first = peer->next_event;
        if (!events->first)
            events->last = NULL;
    }
    return taken;
}

uint32_t tc_events_take(tc_events *events, tc_event *out, uint32_t count) {
    pthread_mutex_lock(&events->lock);
    uint64_t ignored;
    if (events->raised)
        (void)!read(events->fd, &ignored, sizeof ignored);
    events->raised = false;
    uint32_t taken = take_faults(events, out, count);
    taken += take_peers(events, out + taken, count - taken);
    for (; taken < count && events->waiting; taken++) {
        out[taken] = events->ring[events->head];
        events->head = (events->head + 1) & (events->slots - 1);
        events->waiting--;
    }
    atomic_store_explicit(&events->load, events->waiting, memory_order_relaxed);
    if (taken == count && count)
        raise_fd(events); /* perhaps there is more */
    pthread_mutex_unlock(&events->lock);
    return taken;
}
