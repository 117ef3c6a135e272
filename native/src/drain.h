/* How fast the sockets of a path drain, and so how much may wait in them: a time's worth, not a
 * number of bytes.
 *
 * A socket takes megabytes before it is full. On a fast link that is nothing, on a slow one
 * seconds, and whatever comes next waits for them. What waits, in the socket and in the queues of
 * the device below it, can be asked for; so between two looks it shows how fast it became less, and
 * what may wait is what leaves in TC_DRAIN_TIME at that rate. A path where next to nothing ever
 * waits, or that is so fast that this would be more than TC_DRAIN_WIDE, is wide and hardly looked
 * at. */
#ifndef TC_DRAIN_H
#define TC_DRAIN_H

#include "core.h"

/* Nanoseconds. Several looks fit into it: a link that runs dry before the next one is idle. */
#define TC_DRAIN_TIME UINT64_C(5000000)
/* Bytes, counted as the kernel does, with all that it keeps about a packet. The least is room for
 * one packet behind another, however slow the link. */
enum { TC_DRAIN_WIDE = 256 << 10, TC_DRAIN_LEAST = 4 << 10, TC_DRAIN_MOST = 8 << 20 };
/* Until the rate is known. */
enum { TC_DRAIN_FIRST = 16 << 10 };

typedef struct {
    uint64_t most;    /* bytes that there is room for; TC_DRAIN_MOST unless set */
    uint64_t limit;   /* bytes that may wait */
    uint64_t rate;    /* bytes a second, 0 until it is known */
    uint64_t left;    /* bytes that waited after the last look, with what was given then */
    uint64_t since;   /* when the measurement that goes on began; 0: none does */
    uint64_t drained; /* bytes, in it */
    uint64_t burst;   /* and at most between two looks */
} tc_drain;

void tc_drain_init(tc_drain *drain);
/* So much waits, before more is given. `wanted`: more would have been given the last time. */
void tc_drain_look(tc_drain *drain, uint64_t waiting, bool wanted, uint64_t now);
/* So much waits after it was. */
void tc_drain_gave(tc_drain *drain, uint64_t waiting);
/* So much waits; since the last look more was given than was seen, so that this measures nothing.
 */
void tc_drain_glance(tc_drain *drain, uint64_t waiting);
/* Whether what comes next had better wait elsewhere: the path is known to be slow, or full. */
bool tc_drain_is_narrow(const tc_drain *drain);
/* Whether nothing has left for a while. */
bool tc_drain_stalls(const tc_drain *drain, uint64_t now);
/* Bytes to give in one message. The kernel may count one as waiting until the last of it has left:
 * large ones would look like a line that sends in large turns. 0, a packet, until the rate is
 * known.
 */
uint64_t tc_drain_piece(const tc_drain *drain);
/* Nanoseconds that so many bytes take; 0 while the rate is not known. */
uint64_t tc_drain_takes(const tc_drain *drain, uint64_t bytes);

#endif
