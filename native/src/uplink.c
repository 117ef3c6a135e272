/* Looking at a path's sockets, and queuing for them. */
#include "uplink.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/random.h>

/* A wide path is looked at once in so many bytes. */
enum { LOOK = 16 << 10 };
/* What the kernel counts for a packet beside its bytes, at least. */
enum { ABOUT_A_PACKET = 768 };
/* Nanoseconds: how often what is too old is looked for while nothing leaves. */
static const uint64_t CLEAR = 100 * 1000 * 1000;

void tc_uplink_init(tc_uplink *uplink) {
    *uplink = (tc_uplink){0};
    tc_drain_init(&uplink->drain);
}

void tc_uplink_free(tc_uplink *uplink) {
    tc_fairqueue_free(uplink->queue);
}

/* What a socket has room for, 0 where that is not known. */
static uint64_t buffer_of(int fd) {
    int bytes = 0;
    socklen_t size = sizeof bytes;
    return fd >= 0 && !getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &size) ? (uint64_t)bytes : 0;
}

void tc_uplink_renew(tc_uplink *uplink, const tc_outer *outer) {
    tc_drain *drain = &uplink->drain;
    tc_drain_init(drain);
    uplink->wanted = false;
    /* A batch that leaves before the next look has to fit too, or it is lost. */
    int fd = outer->connected >= 0 ? outer->connected : outer->fd4 >= 0 ? outer->fd4 : outer->fd6;
    uint64_t most = buffer_of(fd) / 8 * 5;
    if (most >= TC_DRAIN_LEAST && most < drain->most)
        drain->most = most;
}

static uint64_t waiting_in(int fd) {
    int bytes = 0;
    return fd >= 0 && !ioctl(fd, SIOCOUTQ, &bytes) ? (uint64_t)bytes : 0;
}

/* Bytes in the sockets and in the queues below them. */
static uint64_t waiting(const tc_outer *outer) {
    if (outer->connected >= 0)
        return waiting_in(outer->connected); /* the others' share is next to nothing then */
    return waiting_in(outer->fd4) + waiting_in(outer->fd6);
}

bool tc_uplink_has(const tc_uplink *uplink) {
    return uplink->queue && !tc_fairqueue_is_empty(uplink->queue);
}

bool tc_uplink_holds(const tc_uplink *uplink) {
    return tc_drain_is_narrow(&uplink->drain) || tc_uplink_has(uplink);
}

void tc_uplink_put(tc_uplink *uplink, const uint8_t *packet, uint32_t length, uint64_t now,
                   tc_counters *counters) {
    if (!uplink->queue) {
        uint64_t seed = now;
        (void)!getrandom(&seed, sizeof seed, GRND_NONBLOCK);
        uplink->queue = tc_fairqueue_new(seed);
    }
    int displaced = uplink->queue ? tc_fairqueue_put(uplink->queue, packet, length, now) : -1;
    if (displaced < 0) {
        tc_count(counters, TC_COUNT_TX_NO_MEMORY, 1);
        return;
    }
    tc_count(counters, TC_COUNT_TX_QUEUED, 1);
    tc_count(counters, TC_COUNT_TX_QUEUE_OVERFLOW, (uint64_t)displaced);
}

void tc_uplink_sent(tc_uplink *uplink, const tc_outer *outer, uint32_t bytes) {
    uplink->unseen += bytes;
    if (uplink->unseen < LOOK)
        return;
    uplink->unseen = 0;
    tc_drain_glance(&uplink->drain, waiting(outer));
}

uint64_t tc_uplink_room(tc_uplink *uplink, const tc_outer *outer, uint64_t now) {
    tc_drain *drain = &uplink->drain;
    tc_drain_look(drain, waiting(outer), uplink->wanted, now);
    uplink->wanted = false;
    return drain->left < drain->limit ? drain->limit - drain->left : 0;
}

tc_queued *tc_uplink_take(tc_uplink *uplink, uint64_t *room, uint64_t now, tc_counters *counters) {
    if (!*room) {
        uplink->wanted = tc_uplink_has(uplink);
        if (now - uplink->cleared >= CLEAR) {
            uplink->cleared = now;
            tc_count(counters, TC_COUNT_TX_QUEUE_LATE, tc_fairqueue_clear(uplink->queue, now));
        }
        return NULL;
    }
    /* Two packets on their way at the far end of the socket are no standing queue. */
    uint64_t target = TC_CODEL_TARGET + tc_drain_takes(&uplink->drain, TC_DRAIN_LEAST);
    tc_fairqueue_losses losses = {0};
    tc_queued *queued = tc_fairqueue_take(uplink->queue, target, now, &losses);
    tc_count(counters, TC_COUNT_TX_QUEUE_LATE, losses.late);
    tc_count(counters, TC_COUNT_TX_QUEUE_MARKED, losses.marked);
    if (queued) {
        uint64_t cost = queued->length + ABOUT_A_PACKET;
        *room -= *room < cost ? *room : cost;
    }
    return queued;
}

void tc_uplink_gave(tc_uplink *uplink, const tc_outer *outer) {
    tc_drain_gave(&uplink->drain, waiting(outer));
}
