/* Received units in memory. */
#include "sink.h"

#include "intact.h"

enum { ALIGNED = 16 };

bool tc_sink_take(tc_sink *sink, const struct virtio_net_hdr *vnet, const uint8_t *packet,
                  uint32_t length) {
    uint32_t offset = (sink->used + ALIGNED - 1) & ~(uint32_t)(ALIGNED - 1);
    if (sink->count == sink->most || offset > sink->size || length > sink->size - offset)
        return false;
    uint16_t segment = vnet && vnet->gso_type ? vnet->gso_size : 0;
    bool open = vnet && vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
    bool broken = !open && !tc_packet_intact(packet, length);
    memcpy(sink->buffer + offset, packet, length);
    sink->used = offset + length;
    sink->spans[sink->count++] = (tc_span){.offset = offset,
                                           .length = length,
                                           .segment = segment,
                                           .flags = open     ? TC_SPAN_NEEDS_CHECKSUM
                                                    : broken ? TC_SPAN_BROKEN
                                                             : 0};
    return true;
}
