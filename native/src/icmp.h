/* "Destination unreachable" for packets that the tunnel has no peer for. */
#ifndef TC_ICMP_H
#define TC_ICMP_H

#include "core.h"

#define TC_ICMP_BYTES 1280

/* At most this many a second from one worker, in bursts of as many. */
#define TC_ICMP_RATE 50

typedef struct {
    uint32_t tokens;
    uint64_t since;
} tc_icmp_limit;

bool tc_icmp_permit(tc_icmp_limit *limit, uint64_t now);
/* Writes the error about a packet (its total length from tc_packet_total) into a buffer of
 * TC_ICMP_BYTES. Answers its length; 0 where RFC 1122 3.2.2 or RFC 4443 2.4(e) forbid one. */
uint32_t tc_icmp_unreachable(const uint8_t *packet, uint32_t length, uint8_t *out);

#endif
