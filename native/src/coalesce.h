/* Joining packets of one flow into super-packets for a link with vnet_hdr: TCP segments in
 * sequence, and UDP datagrams of one size where the link knows USO. The inverse of segment.h: what
 * was joined can be cut into the same packets again. */
#ifndef TC_COALESCE_H
#define TC_COALESCE_H

#include <linux/virtio_net.h>

#include "backlog.h"
#include "core.h"
#include "counters.h"
#include "link.h"
#include "sink.h"

/* What joining needs to know of a packet. protocol is TCP or UDP where it may join others, else
 * TC_PROTO_NONE. The packet's length is its total length. */
typedef struct {
    const uint8_t *packet;
    uint32_t length;
    uint32_t headers;
    uint32_t transport; /* 0 when the ports are not known */
    uint8_t version;
    uint8_t protocol;
} tc_candidate;

/* length comes from tc_packet_total. flags are TC_NO_COALESCE_*. */
void tc_candidate_read(tc_candidate *candidate, const uint8_t *packet, uint32_t length,
                       uint32_t flags);

/* One super-packet that grows. The first packet stays where it is until a second one joins. */
typedef struct {
    uint8_t *buffer; /* TC_UNIT_MAX bytes, the caller's */
    tc_candidate first;
    uint32_t length;
    uint32_t segment;
    uint32_t count; /* 0: empty */
    bool closed;    /* nothing may follow: a short segment or PSH */
} tc_super;

void tc_super_start(tc_super *super, const tc_candidate *candidate);
/* Whether the packet joined. A packet with a wrong checksum never does. */
bool tc_super_join(tc_super *super, const tc_candidate *candidate);
/* Ends it: answers the packet to write, its header and length. The super is empty afterwards. */
const uint8_t *tc_super_end(tc_super *super, struct virtio_net_hdr *vnet, uint32_t *length);

/* Several flows at once over one batch, written to a link. Within a flow packets keep their order.
 */
#define TC_COALESCER_FLOWS 8

typedef struct {
    const tc_link *link;
    tc_counters *counters;
    uint32_t flags; /* TC_NO_COALESCE_* */
    tc_sink *sink;  /* taken rather than the link; NULL for none, and once it is full */
    int dead;       /* errno of a link that failed for good */
    tc_backlog backlog;
    uint32_t open;
    tc_super supers[TC_COALESCER_FLOWS]; /* the oldest first */
    uint8_t *memory;
} tc_coalescer;

int tc_coalescer_init(tc_coalescer *coalescer, const tc_link *link, tc_counters *counters);
void tc_coalescer_free(tc_coalescer *coalescer);
/* The packet must stay in place until the flush. */
void tc_coalescer_add(tc_coalescer *coalescer, const uint8_t *packet, uint32_t length);
void tc_coalescer_flush(tc_coalescer *coalescer);
/* Writes what a full link did not take before; whether some of it still waits. */
bool tc_coalescer_retry(tc_coalescer *coalescer);

#endif
