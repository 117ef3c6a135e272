/* What leaves by one path, kept short: the measure of its sockets, and the queue of what they may
 * not take yet.
 *
 * A wide path has no queue. Once more waits in its sockets than leaves in a few milliseconds,
 * packets wait here instead, where they are of different flows and still in the clear: behind the
 * cipher a ping could no longer pass a bulk transfer, and what was sealed could not be dropped
 * without a gap in the counters. */
#ifndef TC_UPLINK_H
#define TC_UPLINK_H

#include "counters.h"
#include "drain.h"
#include "fairqueue.h"
#include "outer.h"

typedef struct {
    tc_drain drain;
    tc_fairqueue *queue; /* NULL until it is needed */
    uint32_t unseen;     /* bytes sent since the last look, while the path is wide */
    bool wanted;         /* more was there than might leave */
    uint64_t cleared;    /* when it was last looked for packets that are too old */
} tc_uplink;

void tc_uplink_init(tc_uplink *uplink);
void tc_uplink_free(tc_uplink *uplink);
/* Its sockets are others now: all that was measured is void. */
void tc_uplink_renew(tc_uplink *uplink, const tc_outer *outer);
/* Whether packets go to the queue. */
bool tc_uplink_holds(const tc_uplink *uplink);
bool tc_uplink_has(const tc_uplink *uplink);
/* Puts a copy of a packet into the queue; counts it, and what it displaced. */
void tc_uplink_put(tc_uplink *uplink, const uint8_t *packet, uint32_t length, uint64_t now,
                   tc_counters *counters);
/* So many bytes have left without the queue. */
void tc_uplink_sent(tc_uplink *uplink, const tc_outer *outer, uint32_t bytes);
/* Bytes that may leave now; looks at the sockets. */
uint64_t tc_uplink_room(tc_uplink *uplink, const tc_outer *outer, uint64_t now);
/* Takes the next packet while there is room, and lessens that; NULL when there is none. The caller
 * frees it. */
tc_queued *tc_uplink_take(tc_uplink *uplink, uint64_t *room, uint64_t now, tc_counters *counters);
/* What was taken is sent. */
void tc_uplink_gave(tc_uplink *uplink, const tc_outer *outer);

#endif
