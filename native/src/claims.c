/* The table of claims: a bit a port. */
#include "claims.h"

#include <errno.h>

#include "packet.h"

enum {
    ECHO_REPLY_4 = 0,
    UNREACHABLE_4 = 3,
    TIME_EXCEEDED_4 = 11,
    PROBLEM_4 = 12,
    ERROR_6_LAST = 4,
    ECHO_REPLY_6 = 129,
    FRAGMENT_OFFSET = 0x1fff,
};

static int kind_of(uint32_t protocol) {
    switch (protocol) {
    case TC_PROTO_TCP:
        return TC_CLAIM_TCP;
    case TC_PROTO_UDP:
        return TC_CLAIM_UDP;
    case TC_PROTO_ICMP:
    case TC_PROTO_ICMPV6:
        return TC_CLAIM_ECHO;
    default:
        return -1;
    }
}

static bool claimed(const tc_claims *claims, int kind, uint32_t port) {
    return claims->ports[kind][port >> 3] & 1u << (port & 7);
}

int tc_claims_set(tc_claims *claims, int protocol, uint32_t port, bool on) {
    int kind = protocol == TC_PROTO_ICMPV6 ? -1 : kind_of((uint32_t)protocol);
    if (kind < 0 || port > 0xffff)
        return -EINVAL;
    if (claimed(claims, kind, port) == on)
        return on ? -EEXIST : -ENOENT;
    claims->ports[kind][port >> 3] ^= (uint8_t)(1u << (port & 7));
    claims->count += on ? 1u : -1u;
    return 0;
}

static bool is_error(const tc_packet *p) {
    if (p->transport == TC_PROTO_ICMPV6)
        return p->icmp_type >= 1 && p->icmp_type <= ERROR_6_LAST;
    return p->icmp_type == UNREACHABLE_4 || p->icmp_type == TIME_EXCEEDED_4 ||
           p->icmp_type == PROBLEM_4;
}

/* The source port, or echo identifier, of a packet that an error quotes; it is cut short. */
static bool quoted(const tc_claims *claims, const uint8_t *inner, uint32_t length) {
    uint32_t header, protocol;
    if (length >= 28 && inner[0] >> 4 == 4) {
        header = (inner[0] & 15) * 4u;
        protocol = inner[9];
        if (header < 20 || tc_get_be16(inner + 6) & FRAGMENT_OFFSET)
            return false;
    } else if (length >= 48 && inner[0] >> 4 == 6) {
        header = 40;
        protocol = inner[6];
    } else {
        return false;
    }
    int kind = kind_of(protocol);
    if (kind < 0 || header + 8 > length)
        return false;
    uint32_t at = header + (kind == TC_CLAIM_ECHO ? 4 : 0);
    return claimed(claims, kind, tc_get_be16(inner + at));
}

tc_destination tc_claims_find(const tc_claims *claims, const uint8_t *packet, uint32_t length) {
    if (!claims->count)
        return TC_FOR_LINK;
    tc_packet p;
    if (tc_parse(packet, length, &p) < 0)
        return TC_FOR_LINK;
    if (p.fragment && p.transport == TC_PROTO_NONE)
        return TC_FOR_BOTH;
    int kind = kind_of(p.transport);
    bool ours = false;
    if (kind == TC_CLAIM_ECHO) {
        const uint8_t *icmp = packet + p.transport_offset;
        uint8_t reply = p.transport == TC_PROTO_ICMP ? ECHO_REPLY_4 : ECHO_REPLY_6;
        if (p.icmp_type == reply)
            ours = claimed(claims, kind, tc_get_be16(icmp + 4));
        else if (is_error(&p))
            ours = quoted(claims, icmp + 8, p.total - p.transport_offset - 8);
    } else if (kind >= 0) {
        ours = claimed(claims, kind, p.destination_port);
    }
    return ours ? TC_FOR_PORT : TC_FOR_LINK;
}
