/* Whether a packet's checksums are right, for a reader that will believe what the packet says. */
#ifndef TC_INTACT_H
#define TC_INTACT_H

#include "core.h"

/* length comes from tc_packet_total. True for what has no checksum that could be told here:
 * fragments, other protocols, UDP over IPv4 without one. */
bool tc_packet_intact(const uint8_t *packet, uint32_t length);

#endif
