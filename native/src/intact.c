/* Verification: the IPv4 header's checksum, and that of TCP, UDP, ICMP and ICMPv6. */
#include "intact.h"

#include "checksum.h"
#include "packet.h"

bool tc_packet_intact(const uint8_t *packet, uint32_t length) {
    tc_packet parsed;
    if (tc_parse(packet, length, &parsed) < 0)
        return false;
    if (parsed.version == 4 &&
        tc_checksum_fold(tc_checksum_add(0, packet, (packet[0] & 15) * 4u)) != 0xffff)
        return false;
    if (parsed.fragment)
        return true;
    const uint8_t *transport = packet + parsed.transport_offset;
    uint32_t below = parsed.total - parsed.transport_offset;
    uint64_t sum = 0;
    switch (parsed.transport) {
    case TC_PROTO_ICMP:
        if (parsed.version == 6)
            return true;
        break;
    case TC_PROTO_UDP:
        if (below < 8)
            return false;
        if (parsed.version == 4 && !transport[6] && !transport[7])
            return true;
        /* fall through */
    case TC_PROTO_TCP:
    case TC_PROTO_ICMPV6:
        sum = tc_checksum_pseudo(parsed.version, parsed.source, parsed.destination,
                                 parsed.transport, below);
        break;
    default:
        return true;
    }
    return tc_checksum_fold(tc_checksum_add(sum, transport, below)) == 0xffff;
}
