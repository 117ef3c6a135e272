/* Congestion marks (RFC 3168) of inner packets. */
#ifndef TC_ECN_H
#define TC_ECN_H

#include "core.h"

enum { TC_ECN_NONE = 0, TC_ECN_ECT1 = 1, TC_ECN_ECT0 = 2, TC_ECN_CE = 3 };

static inline uint8_t tc_ecn_of(const uint8_t *packet) {
    return packet[0] >> 4 == 4 ? packet[1] & 3 : (packet[1] >> 4) & 3;
}

/* Marks a packet that met congestion. False where its sender would not understand. */
bool tc_ecn_mark(uint8_t *packet);
/* Folds the outer header's mark in, by RFC 6040, figure 4. False where the packet must be dropped.
 */
bool tc_ecn_fold(uint8_t *packet, uint8_t outer);

#endif
