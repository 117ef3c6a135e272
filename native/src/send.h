/* From the link to the outer sockets: route, cut, pad, seal and send, a batch at a time. */
#ifndef TC_SEND_H
#define TC_SEND_H

#include "aead.h"
#include "core.h"
#include "counters.h"
#include "outer.h"
#include "segment.h"
#include "session.h"
#include "uplink.h"

#define TC_DATA_HEADER 16
#define TC_DATA_OVERHEAD (TC_DATA_HEADER + TC_TAG_BYTES)
#define TC_SEND_PACKETS TC_OUTER_BATCH
#define TC_SEND_BYTES (256 * 1024)
/* Milliseconds until a full link or a slow path is tried again; one that takes nothing at all. */
enum { TC_RETRY = 1, TC_RETRY_STALLED = 10 };

struct tc_engine;
struct tc_peer;

/* One data message in the sender's buffer. Messages lie one behind the other, without gaps. */
typedef struct {
    struct tc_peer *peer;
    uint32_t offset;
    uint32_t length;
    uint8_t ecn;
    bool data; /* not a keepalive */
} tc_outgoing;

/* A batch under construction. Used under the engine's lock only, and empty between batches. */
typedef struct {
    struct tc_engine *engine;
    const tc_outer *outers;
    tc_uplink *uplinks; /* TC_MAX_PATHS; NULL: nothing waits here */
    tc_counters *counters;
    tc_aead *aead;
    uint8_t *buffer;
    uint32_t used;
    uint32_t count;
    tc_outgoing packets[TC_SEND_PACKETS];
    tc_aead_job jobs[TC_SEND_PACKETS];
    tc_message messages[TC_SEND_PACKETS];
    tc_outer_batch batch; /* batch.now is the time of everything here */
    bool draining;        /* what comes has waited */
} tc_sender;

int tc_sender_init(tc_sender *sender, struct tc_engine *engine, const tc_outer *outers,
                   tc_uplink *uplinks, tc_counters *counters);
void tc_sender_free(tc_sender *sender);
/* Takes a unit of the link: sealed into the batch, queued, staged, or dropped and counted. False
 * when there is nowhere to send it, which the source deserves to hear. */
bool tc_sender_unit(tc_sender *sender, tc_unit *unit);
/* Seals and sends what was taken. */
void tc_sender_flush(tc_sender *sender);
/* Sends of what is queued as much as may leave now. Answers after how many milliseconds to try the
 * rest, 0 where there is none. */
int tc_sender_drain(tc_sender *sender);
/* Sends what the peer has staged, or one keepalive if asked and nothing is. 0, -ENOKEY without a
 * usable session, -EDESTADDRREQ without an endpoint. */
int tc_sender_staged(tc_sender *sender, struct tc_peer *peer, bool keepalive);

#endif
