/* IPv4 (RFC 791) and IPv6 (RFC 8200) headers, then TCP, UDP and ICMP, without trusting a byte.
 * Every offset is at most total, which is at most the length of the memory. Offsets fit 16 bits
 * though an IPv6 packet may be longer: a header starts at most 40 + 8 * 2048 bytes in. */
#include "packet.h"

#include <errno.h>

enum {
    HOP_BY_HOP = 0,
    ROUTING = 43,
    FRAGMENT = 44,
    AUTHENTICATION = 51,
    NO_NEXT = 59,
    DESTINATION = 60,
    MAX_EXTENSIONS = 8, /* more than any honest sender uses */
};

uint32_t tc_packet_total(const uint8_t *packet, size_t length) {
    if (length < 20)
        return 0;
    if (packet[0] >> 4 == 4) {
        uint32_t header = (packet[0] & 15u) * 4;
        uint32_t total = tc_get_be16(packet + 2);
        return header >= 20 && total >= header && total <= length ? total : 0;
    }
    if (packet[0] >> 4 == 6 && length >= 40) {
        uint32_t total = 40u + tc_get_be16(packet + 4);
        return total <= length ? total : 0;
    }
    return 0;
}

static int parse_transport(const uint8_t *packet, tc_packet *out) {
    const uint8_t *p = packet + out->transport_offset;
    uint32_t left = out->total - out->transport_offset;
    uint32_t header;
    switch (out->transport) {
    case TC_PROTO_TCP:
        if (left < 20)
            return -EBADMSG;
        header = (p[12] >> 4) * 4u;
        if (header < 20 || header > left)
            return -EBADMSG;
        out->tcp_flags = p[13];
        break;
    case TC_PROTO_UDP:
        header = 8;
        if (left < header || tc_get_be16(p + 4) < header)
            return -EBADMSG;
        /* The first fragment of a datagram says the length of the whole. */
        if (tc_get_be16(p + 4) > left && !out->fragment)
            return -EBADMSG;
        break;
    case TC_PROTO_ICMP:
    case TC_PROTO_ICMPV6:
        header = 8;
        if (left < header)
            return -EBADMSG;
        out->icmp_type = p[0];
        out->icmp_code = p[1];
        break;
    default:
        header = 0;
    }
    if (out->transport == TC_PROTO_TCP || out->transport == TC_PROTO_UDP) {
        out->source_port = tc_get_be16(p);
        out->destination_port = tc_get_be16(p + 2);
    }
    out->payload_offset = (uint16_t)(out->transport_offset + header);
    return 0;
}

static int parse4(const uint8_t *packet, tc_packet *out) {
    uint16_t fragment = tc_get_be16(packet + 6);
    out->ds = packet[1];
    memcpy(out->source, packet + 12, 4);
    memcpy(out->destination, packet + 16, 4);
    out->transport = packet[9];
    out->transport_offset = (uint16_t)((packet[0] & 15u) * 4);
    out->payload_offset = out->transport_offset;
    out->fragment = (fragment & 0x3fff) != 0;
    if (fragment & 0x1fff) {
        out->transport = TC_PROTO_NONE;
        return 0;
    }
    return parse_transport(packet, out);
}

static int parse6(const uint8_t *packet, tc_packet *out) {
    uint32_t at = 40;
    uint8_t next = packet[6];
    out->ds = (uint8_t)(packet[0] << 4 | packet[1] >> 4);
    memcpy(out->source, packet + 8, 16);
    memcpy(out->destination, packet + 24, 16);
    for (int i = 0; i <= MAX_EXTENSIONS; i++) {
        uint32_t size;
        out->transport = next;
        out->transport_offset = out->payload_offset = (uint16_t)at;
        if (next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != AUTHENTICATION &&
            next != DESTINATION) {
            if (next == NO_NEXT) {
                out->transport = TC_PROTO_NONE;
                return 0;
            }
            return parse_transport(packet, out);
        }
        if (out->total - at < 8)
            return -EBADMSG;
        if (next == FRAGMENT)
            size = 8;
        else if (next == AUTHENTICATION)
            size = (packet[at + 1] + 2u) * 4;
        else
            size = (packet[at + 1] + 1u) * 8;
        if (size > out->total - at)
            return -EBADMSG;
        if (next == FRAGMENT) {
            uint16_t place = tc_get_be16(packet + at + 2);
            out->fragment |= (place & 0xfff9) != 0;
            if (place & 0xfff8) {
                out->transport = TC_PROTO_NONE;
                out->transport_offset = out->payload_offset = (uint16_t)(at + size);
                return 0;
            }
        }
        next = packet[at];
        at += size;
    }
    return -EBADMSG; /* a chain that does not end */
}

int tc_parse(const uint8_t *packet, uint32_t length, tc_packet *out) {
    memset(out, 0, sizeof *out);
    out->total = tc_packet_total(packet, length);
    if (!out->total)
        return -EBADMSG;
    out->version = packet[0] >> 4;
    return out->version == 4 ? parse4(packet, out) : parse6(packet, out);
}
