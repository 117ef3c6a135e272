/* ICMP host unreachable and ICMPv6 address unreachable. The engine has no address of its own, so
 * the error comes from the address that could not be reached: it belongs to the tunnel's routes,
 * and passes reverse-path filters. */
#include "icmp.h"

#include "checksum.h"
#include "packet.h"

enum {
    ICMP_UNREACHABLE = 3,
    ICMP_HOST = 1,
    ICMPV6_UNREACHABLE = 1,
    ICMPV6_ADDRESS = 3,
    QUOTE4 = 576 - 20 - 8,           /* RFC 1812 4.3.2.3: at most 576 bytes in all */
    QUOTE6 = TC_ICMP_BYTES - 40 - 8, /* RFC 4443: as much as fits the minimum MTU */
};

bool tc_icmp_permit(tc_icmp_limit *limit, uint64_t now) {
    const uint64_t second = UINT64_C(1000000000);
    if (!limit->since || now - limit->since >= second) {
        limit->since = now;
        limit->tokens = TC_ICMP_RATE;
    }
    if (!limit->tokens)
        return false;
    limit->tokens--;
    return true;
}

/* ICMP errors must not answer ICMP errors; all that is not a known question counts as one. */
static bool is_question(const tc_packet *p) {
    if (p->transport == TC_PROTO_ICMP)
        return p->icmp_type == 8 || p->icmp_type == 0 || p->icmp_type == 13 || p->icmp_type == 14;
    if (p->transport == TC_PROTO_ICMPV6)
        return p->icmp_type >= 128;
    return true;
}

static bool is_zero(const uint8_t *address, size_t length) {
    uint8_t any = 0;
    for (size_t i = 0; i < length; i++)
        any |= address[i];
    return !any;
}

/* Multicast, broadcast, class E, loopback and unspecified addresses get no errors. */
static bool single_host4(const uint8_t *a) {
    return a[0] != 0 && a[0] != 127 && a[0] < 224;
}

static bool single_host6(const uint8_t *a) {
    return a[0] != 0xff && !is_zero(a, 16) && !(is_zero(a, 15) && a[15] == 1);
}

static void put_checksum(uint8_t *field, uint64_t sum) {
    uint16_t value = (uint16_t)~tc_checksum_fold(sum);
    memcpy(field, &value, sizeof value);
}

static uint32_t unreachable4(const uint8_t *packet, uint32_t length, uint8_t *out) {
    uint32_t quote = length < QUOTE4 ? length : QUOTE4;
    uint32_t total = 28 + quote;
    memset(out, 0, 28);
    out[0] = 0x45;
    out[1] = 0xc0; /* RFC 1812 4.3.2.5: precedence 6 */
    tc_put_be16(out + 2, (uint16_t)total);
    out[8] = 64;
    out[9] = TC_PROTO_ICMP;
    memcpy(out + 12, packet + 16, 4);
    memcpy(out + 16, packet + 12, 4);
    put_checksum(out + 10, tc_checksum_add(0, out, 20));
    out[20] = ICMP_UNREACHABLE;
    out[21] = ICMP_HOST;
    memcpy(out + 28, packet, quote);
    put_checksum(out + 22, tc_checksum_add(0, out + 20, 8 + quote));
    return total;
}

static uint32_t unreachable6(const uint8_t *packet, uint32_t length, uint8_t *out) {
    uint32_t quote = length < QUOTE6 ? length : QUOTE6;
    memset(out, 0, 48);
    out[0] = 0x60;
    tc_put_be16(out + 4, (uint16_t)(8 + quote));
    out[6] = TC_PROTO_ICMPV6;
    out[7] = 64;
    memcpy(out + 8, packet + 24, 16);
    memcpy(out + 24, packet + 8, 16);
    out[40] = ICMPV6_UNREACHABLE;
    out[41] = ICMPV6_ADDRESS;
    memcpy(out + 48, packet, quote);
    uint64_t sum = tc_checksum_pseudo(6, out + 8, out + 24, TC_PROTO_ICMPV6, 8 + quote);
    put_checksum(out + 42, tc_checksum_add(sum, out + 40, 8 + quote));
    return 48 + quote;
}

uint32_t tc_icmp_unreachable(const uint8_t *packet, uint32_t length, uint8_t *out) {
    tc_packet parsed;
    if (tc_parse(packet, length, &parsed) < 0)
        return 0;
    if (parsed.fragment && parsed.transport == TC_PROTO_NONE) /* not the first fragment */
        return 0;
    if (!is_question(&parsed))
        return 0;
    if (parsed.version == 4)
        return single_host4(parsed.source) && single_host4(parsed.destination)
                   ? unreachable4(packet, length, out)
                   : 0;
    return single_host6(parsed.source) && single_host6(parsed.destination)
               ? unreachable6(packet, length, out)
               : 0;
}
