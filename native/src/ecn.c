/* Setting congestion marks. */
#include "ecn.h"

static void set(uint8_t *packet, uint8_t ecn) {
    if (packet[0] >> 4 == 6) {
        packet[1] = (uint8_t)((packet[1] & ~0x30) | ecn << 4);
        return;
    }
    /* Adjusted, not computed anew (RFC 1624): a wrong checksum must stay wrong. */
    uint16_t before = tc_get_be16(packet);
    packet[1] = (uint8_t)((packet[1] & ~3) | ecn);
    uint32_t sum =
        (uint16_t)~tc_get_be16(packet + 10) + (uint32_t)(uint16_t)~before + tc_get_be16(packet);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    tc_put_be16(packet + 10, (uint16_t)~sum);
}

bool tc_ecn_mark(uint8_t *packet) {
    uint8_t ecn = tc_ecn_of(packet);
    if (ecn == TC_ECN_NONE)
        return false;
    if (ecn != TC_ECN_CE)
        set(packet, TC_ECN_CE);
    return true;
}

bool tc_ecn_fold(uint8_t *packet, uint8_t outer) {
    if (outer == TC_ECN_CE)
        return tc_ecn_mark(packet);
    if (outer == TC_ECN_ECT1 && tc_ecn_of(packet) == TC_ECN_ECT0)
        set(packet, TC_ECN_ECT1);
    return true;
}
