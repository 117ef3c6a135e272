/* Segmentation. The payload is copied once, and added up during that copy; headers are rewritten
 * as RFC 9293 (TCP), RFC 768 (UDP) and the kernel's own segmentation have them: the IPv4
 * identification and the TCP sequence number advance, FIN and PSH stay on the last segment, CWR on
 * the first. */
#include "segment.h"

#include <errno.h>

#include "checksum.h"
#include "packet.h"

enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

static void put_checksum(uint8_t *field, uint64_t sum) {
    uint16_t value = (uint16_t)~tc_checksum_fold(sum);
    memcpy(field, &value, sizeof value);
}

/* UDP says "no checksum" with 0, so a computed 0 goes out as its other form. Where only the field's
 * place is known the same is done, as in the kernel: all other protocols read both forms alike. */
static void put_udp_checksum(uint8_t *field, uint64_t sum) {
    put_checksum(field, sum);
    if (field[0] == 0 && field[1] == 0)
        field[0] = field[1] = 0xff;
}

static int open_super(tc_unit *unit, const struct virtio_net_hdr *vnet) {
    tc_packet parsed;
    if (tc_parse(unit->packet, unit->length, &parsed) < 0 || parsed.fragment || !vnet->gso_size)
        return -EBADMSG;
    uint8_t type = vnet->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    uint8_t protocol;
    if (type == VIRTIO_NET_HDR_GSO_TCPV4 && parsed.version == 4)
        protocol = TC_PROTO_TCP;
    else if (type == VIRTIO_NET_HDR_GSO_TCPV6 && parsed.version == 6)
        protocol = TC_PROTO_TCP;
    else if (type == VIRTIO_NET_HDR_GSO_UDP_L4)
        protocol = TC_PROTO_UDP;
    else
        return -EBADMSG;
    uint32_t least = protocol == TC_PROTO_TCP ? 20 : 8;
    if (parsed.transport != protocol || parsed.payload_offset < parsed.transport_offset + least ||
        parsed.payload_offset >= parsed.total || parsed.total > TC_UNIT_MAX)
        return -EBADMSG;
    unit->length = parsed.total;
    unit->protocol = protocol;
    unit->transport = parsed.transport_offset;
    unit->headers = parsed.payload_offset;
    unit->segment = vnet->gso_size;
    unit->count = (unit->length - unit->headers + unit->segment - 1) / unit->segment;
    return 0;
}

int tc_unit_open(tc_unit *unit, const struct virtio_net_hdr *vnet, const uint8_t *packet,
                 uint32_t length) {
    *unit = (tc_unit){.packet = packet, .length = length, .count = 1};
    if (vnet && vnet->gso_type != VIRTIO_NET_HDR_GSO_NONE)
        return open_super(unit, vnet);
    unit->length = tc_packet_total(packet, length);
    if (!unit->length || unit->length > TC_UNIT_MAX)
        return -EBADMSG;
    if (vnet && vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        unit->checksum_start = vnet->csum_start;
        unit->checksum_offset = vnet->csum_offset;
        /* The field lies in the transport header, never in the IP header or past the end. */
        if (unit->checksum_start < 20 || !unit->checksum_offset ||
            unit->checksum_start + unit->checksum_offset + 2 > unit->length)
            return -EBADMSG;
    }
    return 0;
}

uint32_t tc_unit_largest(const tc_unit *unit) {
    uint32_t segment = unit->headers + unit->segment;
    return unit->segment && segment < unit->length ? segment : unit->length;
}

static uint32_t next_plain(tc_unit *unit, uint8_t *to) {
    if (!unit->checksum_offset) {
        memcpy(to, unit->packet, unit->length);
        return unit->length;
    }
    /* The field holds the pseudo-header's sum already, so it is added like all else. */
    uint32_t start = unit->checksum_start;
    memcpy(to, unit->packet, start);
    uint64_t sum = tc_checksum_copy(0, to + start, unit->packet + start, unit->length - start);
    put_udp_checksum(to + start + unit->checksum_offset, sum);
    return unit->length;
}

static void rewrite_ip(const tc_unit *unit, uint8_t *ip, uint32_t length) {
    if (ip[0] >> 4 == 6) {
        tc_put_be16(ip + 4, (uint16_t)(length - 40));
        return;
    }
    tc_put_be16(ip + 2, (uint16_t)length);
    tc_put_be16(ip + 4, (uint16_t)(tc_get_be16(ip + 4) + unit->index));
    ip[10] = ip[11] = 0;
    put_checksum(ip + 10, tc_checksum_add(0, ip, (ip[0] & 15) * 4u));
}

uint32_t tc_unit_next(tc_unit *unit, uint8_t *to) {
    if (unit->index == unit->count)
        return 0;
    if (!unit->segment) {
        unit->index = 1;
        return next_plain(unit, to);
    }
    uint32_t offset = unit->headers + unit->index * unit->segment;
    uint32_t payload = unit->length - offset;
    if (payload > unit->segment)
        payload = unit->segment;
    bool last = unit->index + 1 == unit->count;
    uint32_t length = unit->headers + payload;
    memcpy(to, unit->packet, unit->headers);
    uint64_t sum = tc_checksum_copy(0, to + unit->headers, unit->packet + offset, payload);
    rewrite_ip(unit, to, length);

    uint8_t *transport = to + unit->transport;
    uint8_t *field = transport + 6;
    if (unit->protocol == TC_PROTO_TCP) {
        field = transport + 16;
        tc_put_be32(transport + 4, tc_get_be32(transport + 4) + unit->index * unit->segment);
        if (!last)
            transport[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        if (unit->index)
            transport[13] &= (uint8_t)~TCP_CWR;
    } else {
        tc_put_be16(transport + 4, (uint16_t)(length - unit->transport));
    }
    field[0] = field[1] = 0;
    int version = to[0] >> 4;
    sum += tc_checksum_pseudo(version, to + (version == 4 ? 12 : 8), to + (version == 4 ? 16 : 24),
                              unit->protocol, length - unit->transport);
    sum = tc_checksum_add(sum, transport, unit->headers - unit->transport);
    if (unit->protocol == TC_PROTO_TCP)
        put_checksum(field, sum);
    else
        put_udp_checksum(field, sum);
    unit->index++;
    return length;
}
