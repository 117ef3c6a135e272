/* Batches of packets between a link and Python's PacketFlow. No engine is involved, and no state is
 * kept: everything lies in the caller's buffer. */
#include <errno.h>

#include "checksum.h"
#include "coalesce.h"
#include "intact.h"
#include "link.h"
#include "packet.h"
#include "segment.h"

/* What one read may need: with units as it is, otherwise cut with new headers. The kernel sends no
 * segments small enough to need more. */
enum { UNIT_BYTES = 65600, CUT_BYTES = 2 * UNIT_BYTES, CUT_SPANS = 1024 };

static int read_unit(const tc_link *link, int units, uint8_t *buffer, uint32_t base,
                     tc_span *span) {
    tc_unit unit;
    int error = tc_link_read(link, buffer, &unit);
    if (error)
        return error;
    *span = (tc_span){.offset = base + TC_LINK_HEADROOM,
                      .length = unit.length,
                      .segment = (uint16_t)unit.segment};
    if (unit.segment || unit.checksum_offset)
        span->flags = TC_SPAN_NEEDS_CHECKSUM;
    else if (units == TC_FLOW_VERIFIED && !tc_packet_intact(unit.packet, unit.length))
        span->flags = TC_SPAN_BROKEN;
    return 0;
}

int tc_flow_read(int fd, uint32_t link_flags, int units, uint8_t *buffer, uint32_t size,
                 tc_span *spans, uint32_t count) {
    const tc_link link = {.fd = fd, .flags = link_flags};
    uint32_t need_bytes = units ? UNIT_BYTES : CUT_BYTES, need_spans = units ? 1 : CUT_SPANS;
    _Alignas(16) uint8_t input[TC_LINK_READ_BYTES];
    uint32_t used = 0, filled = 0;
    int error = size < need_bytes || count < need_spans ? -EINVAL : 0;
    while (!error && size - used >= need_bytes && count - filled >= need_spans) {
        if (units) {
            error = read_unit(&link, units, buffer + used, used, &spans[filled]);
            if (!error) {
                /* The next packet is aligned too, behind its own headroom. */
                used = (spans[filled].offset + spans[filled].length + 15) & ~15u;
                filled++;
            }
        } else {
            tc_unit unit;
            error = tc_link_read(&link, input, &unit);
            while (!error && filled < count && size - used >= tc_unit_largest(&unit)) {
                uint32_t length = tc_unit_next(&unit, buffer + used);
                if (!length)
                    break;
                spans[filled++] = (tc_span){.offset = used, .length = length};
                used += length;
            }
        }
        if (error == -EBADMSG || error == -EINTR)
            error = 0;
    }
    return filled ? (int)filled : error ? error : -EAGAIN;
}

/* ---- writing ---- */

typedef struct {
    tc_link link;
    tc_super super;
    uint32_t first; /* span that the open super-packet began with */
} flow_writer;

static int end_super(flow_writer *writer) {
    if (!writer->super.count)
        return 0;
    struct virtio_net_hdr vnet;
    uint32_t length;
    const uint8_t *packet = tc_super_end(&writer->super, &vnet, &length);
    return tc_link_write(&writer->link, &vnet, packet, length);
}

/* A packet that may join its predecessor. */
static int put_packet(flow_writer *writer, const uint8_t *packet, uint32_t length, uint32_t index) {
    uint32_t flags = writer->link.flags & TC_LINK_USO ? 0 : TC_NO_COALESCE_UDP;
    if (!(writer->link.flags & TC_LINK_VNET_HDR))
        return tc_link_write(&writer->link, NULL, packet, length);
    tc_candidate candidate;
    tc_candidate_read(&candidate, packet, length, flags);
    if (!writer->super.count || !tc_super_join(&writer->super, &candidate)) {
        int error = end_super(writer);
        if (error)
            return error;
        writer->first = index;
        tc_super_start(&writer->super, &candidate);
    }
    return writer->super.closed ? end_super(writer) : 0;
}

/* A super-segment, or a packet whose checksum is open. */
static int put_unit(flow_writer *writer, const uint8_t *packet, uint32_t length, uint16_t segment) {
    const tc_link *link = &writer->link;
    tc_packet parsed;
    if (tc_parse(packet, length, &parsed) < 0 || parsed.fragment)
        return -EBADMSG;
    bool tcp = parsed.transport == TC_PROTO_TCP;
    if (!tcp && parsed.transport != TC_PROTO_UDP)
        return -EBADMSG;
    uint8_t type = !tcp                  ? VIRTIO_NET_HDR_GSO_UDP_L4
                   : parsed.version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4
                                         : VIRTIO_NET_HDR_GSO_TCPV6;
    struct virtio_net_hdr vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                  .gso_type = segment ? type : VIRTIO_NET_HDR_GSO_NONE,
                                  .hdr_len = parsed.payload_offset,
                                  .gso_size = segment,
                                  .csum_start = parsed.transport_offset,
                                  .csum_offset = tcp ? 16 : 6};
    _Alignas(16) uint8_t copy[TC_UNIT_MAX], out[TC_UNIT_MAX];
    memcpy(copy, packet, parsed.total);
    uint16_t partial = tc_checksum_fold(tc_checksum_pseudo(parsed.version, parsed.source,
                                                           parsed.destination, parsed.transport,
                                                           parsed.total - parsed.transport_offset));
    memcpy(copy + vnet.csum_start + vnet.csum_offset, &partial, sizeof partial);
    tc_unit unit;
    int error = tc_unit_open(&unit, &vnet, copy, parsed.total);
    if (error)
        return error;
    if (link->flags & TC_LINK_VNET_HDR && (tcp || !segment || link->flags & TC_LINK_USO)) {
        if (unit.count == 1)
            vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE;
        return tc_link_write(link, &vnet, copy, parsed.total);
    }
    for (uint32_t size; (size = tc_unit_next(&unit, out)) > 0;) {
        error = tc_link_write(link, NULL, out, size);
        if (error && unit.index == 1)
            return error; /* nothing of it is out: it may come again */
    }
    return 0;
}

int tc_flow_write(int fd, uint32_t link_flags, const uint8_t *buffer, uint32_t size,
                  const tc_span *spans, uint32_t count, uint32_t *refused) {
    uint8_t memory[TC_UNIT_MAX];
    flow_writer writer = {.link = {.fd = fd, .flags = link_flags}, .super.buffer = memory};
    int error = 0;
    *refused = 0;
    uint32_t i = 0;
    for (; i < count && !error; i++) {
        const tc_span *span = &spans[i];
        bool inside = span->offset <= size && span->length <= size - span->offset;
        const uint8_t *packet = buffer + (inside ? span->offset : 0);
        uint32_t total = inside ? tc_packet_total(packet, span->length) : 0;
        bool bad = !total || total > TC_UNIT_MAX;
        if (bad || span->segment || span->flags & TC_SPAN_NEEDS_CHECKSUM) {
            error = end_super(&writer);
            if (error)
                break;
            writer.first = i;
            if (!bad)
                error = put_unit(&writer, packet, total, span->segment);
            if (bad || error == -EBADMSG) {
                ++*refused;
                error = 0;
            }
        } else {
            if (!writer.super.count)
                writer.first = i;
            error = put_packet(&writer, packet, total, i);
        }
    }
    if (!error) {
        error = end_super(&writer);
        if (!error)
            return (int)count;
    }
    if (error == -ENOBUFS)
        error = -EAGAIN;
    return writer.first ? (int)writer.first : error;
}
