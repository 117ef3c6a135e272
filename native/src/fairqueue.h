/* Flow queuing with CoDel (RFC 8290): a bulk transfer waits behind itself, not everything behind
 * it.
 *
 * Packets are put into queues by flow, and the queues have their turns round robin, by bytes. A
 * flow that was empty goes first, so that a ping, a key stroke or an acknowledgment passes a
 * standing queue at once. Each queue is kept short by CoDel. */
#ifndef TC_FAIRQUEUE_H
#define TC_FAIRQUEUE_H

#include "codel.h"
#include "core.h"

/* Bytes with what is kept about each packet. */
enum { TC_FAIRQUEUE_FLOWS = 256, TC_FAIRQUEUE_BYTES = 4 << 20 };
/* Nanoseconds after which a packet is of no use to anybody: who sent it has sent it again. */
#define TC_FAIRQUEUE_LATEST UINT64_C(3000000000)

typedef struct tc_queued {
    struct tc_queued *next;
    uint64_t since;
    uint32_t length;
    uint8_t packet[];
} tc_queued;

typedef struct tc_fairqueue tc_fairqueue;

/* What happened to packets beside being taken. */
typedef struct {
    uint32_t late;   /* dropped, for they waited too long; */
    uint32_t marked; /* told of congestion instead */
} tc_fairqueue_losses;

tc_fairqueue *tc_fairqueue_new(uint64_t seed); /* NULL without memory */
void tc_fairqueue_free(tc_fairqueue *queue);
bool tc_fairqueue_is_empty(const tc_fairqueue *queue);
/* Puts a copy of an IP packet. Answers how many of the longest queue were dropped to make room, or
 * -ENOMEM. */
int tc_fairqueue_put(tc_fairqueue *queue, const uint8_t *packet, uint32_t length, uint64_t now);
/* Takes the next packet, which the caller frees; NULL when there is none. `target` is CoDel's. */
tc_queued *tc_fairqueue_take(tc_fairqueue *queue, uint64_t target, uint64_t now,
                             tc_fairqueue_losses *losses);
/* Drops what has waited for longer than TC_FAIRQUEUE_LATEST, for a path that takes nothing; answers
 * how many. */
uint32_t tc_fairqueue_clear(tc_fairqueue *queue, uint64_t now);

#endif
