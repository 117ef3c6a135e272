/* CoDel (RFC 8289): which packets of a queue to drop, by how long they waited.
 *
 * A queue that absorbs a burst is good, one that stands is delay for nothing. So what counts is the
 * least that packets waited over an interval: once that is more than the target, packets are
 * dropped, at first one an interval, then closer together as the square root of their number, until
 * the senders have slowed down. */
#ifndef TC_CODEL_H
#define TC_CODEL_H

#include "core.h"

/* Nanoseconds. A round trip's order of magnitude, and a twentieth of it (RFC 8289, 4.3). */
#define TC_CODEL_INTERVAL UINT64_C(100000000)
#define TC_CODEL_TARGET UINT64_C(5000000)

typedef struct {
    bool dropping;
    uint32_t count, last_count;
    uint64_t late_from; /* when the queue will have stood for an interval; 0 while it does not */
    uint64_t next;      /* drop, while dropping */
} tc_codel;

/* A packet was taken that had waited so long, and so many bytes are left behind it: whether to drop
 * (or mark) it. */
bool tc_codel_drops(tc_codel *codel, uint64_t waited, uint32_t left, uint64_t target, uint64_t now);

#endif
