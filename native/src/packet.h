/* Reading IP packets that anybody may have written: every bound is checked in arithmetic wide
 * enough not to wrap. */
#ifndef TC_PACKET_H
#define TC_PACKET_H

#include "core.h"

enum {
    TC_PROTO_ICMP = 1,
    TC_PROTO_TCP = 6,
    TC_PROTO_UDP = 17,
    TC_PROTO_ICMPV6 = 58,
    TC_PROTO_NONE = 255,
};

/* The fast look that the data path takes at each packet: version, header, total length.
 * Answers the packet's total length, at most length, or 0 when it is malformed. */
uint32_t tc_packet_total(const uint8_t *packet, size_t length);
/* tc_parse of tunnel_core.h, 0 or -EBADMSG. A packet may be longer than its total (padding). */

#endif
