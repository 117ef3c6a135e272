/* Cutting what a link gives into packets: TCP and UDP super-segments (TSO, USO) into segments with
 * headers and checksums of their own, and plain packets whose checksum the sender left open. */
#ifndef TC_SEGMENT_H
#define TC_SEGMENT_H

#include <linux/virtio_net.h>

#include "core.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* Linux 6.2 */
#endif

#define TC_UNIT_MAX 65535 /* bytes of one packet or super-segment */

/* A packet or super-segment, checked once; tc_unit_next then answers one packet after another. */
typedef struct {
    const uint8_t *packet;
    uint32_t length;
    uint32_t headers; /* bytes that every segment repeats, for super-segments */
    uint32_t segment; /* payload bytes a segment, 0 for a plain packet */
    uint32_t transport;
    uint32_t checksum_start;  /* plain packets: where the open checksum begins, */
    uint32_t checksum_offset; /* and its field from there; 0 when it is complete */
    uint32_t count;
    uint32_t index;
    uint8_t protocol;
} tc_unit;

/* vnet is NULL on links without it. 0 or -EBADMSG. The packet must outlive the unit. */
int tc_unit_open(tc_unit *unit, const struct virtio_net_hdr *vnet, const uint8_t *packet,
                 uint32_t length);
/* Bytes of the largest packet that tc_unit_next writes. */
uint32_t tc_unit_largest(const tc_unit *unit);
/* Writes the next packet and answers its length, 0 when there is none left. */
uint32_t tc_unit_next(tc_unit *unit, uint8_t *to);

#endif
