/* The input is what a link with vnet_hdr gives: its header and a packet. Whatever is taken is cut
 * within bounds, into packets that add up to the whole and have right checksums; and an ICMP error
 * about it is a packet. An odd first byte corrects the lengths, to get further more often. */
#include "checksum.h"
#include "fuzz.h"
#include "icmp.h"
#include "packet.h"
#include "segment.h"

static uint64_t pseudo(const uint8_t *p, uint8_t protocol, uint32_t below) {
    bool v4 = p[0] >> 4 == 4;
    return tc_checksum_pseudo(v4 ? 4 : 6, p + (v4 ? 12 : 8), p + (v4 ? 16 : 24), protocol, below);
}

static void check_segment(const tc_unit *unit, const uint8_t *p, uint32_t length) {
    tc_packet parsed;
    MUST(tc_parse(p, length, &parsed) == 0 && parsed.total == length);
    MUST(parsed.transport == unit->protocol && parsed.payload_offset == unit->headers);
    if (parsed.version == 4)
        MUST(tc_checksum_fold(tc_checksum_add(0, p, (p[0] & 15) * 4u)) == 0xffff);
    uint32_t below = length - unit->transport;
    uint64_t sum = pseudo(p, unit->protocol, below);
    MUST(tc_checksum_fold(tc_checksum_add(sum, p + unit->transport, below)) == 0xffff);
}

static void cut(const struct virtio_net_hdr *vnet, const uint8_t *packet, uint32_t length) {
    tc_unit unit;
    if (tc_unit_open(&unit, vnet, packet, length) < 0)
        return;
    MUST(unit.length <= length && unit.count > 0);
    uint32_t largest = tc_unit_largest(&unit), payload = 0, count = 0;
    uint8_t *out = malloc(largest);
    MUST(out);
    for (uint32_t size; (size = tc_unit_next(&unit, out)) > 0; count++) {
        MUST(size <= largest);
        payload += size - unit.headers;
        if (unit.segment)
            check_segment(&unit, out, size);
    }
    MUST(count == unit.count && payload == unit.length - unit.headers);
    free(out);

    uint8_t error[TC_ICMP_BYTES];
    uint32_t size = tc_icmp_unreachable(packet, unit.length, error);
    MUST(size <= sizeof error && (!size || tc_packet_total(error, size) == size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct virtio_net_hdr vnet;
    if (size < 1 + sizeof vnet || size > TC_UNIT_MAX)
        return 0;
    bool correct = data[0] & 1;
    memcpy(&vnet, data + 1, sizeof vnet);
    uint32_t length = (uint32_t)(size - 1 - sizeof vnet);
    uint8_t *packet = malloc(length + 1);
    MUST(packet);
    memcpy(packet, data + 1 + sizeof vnet, length);
    if (correct && length >= 40) {
        if (packet[0] >> 4 == 4)
            tc_put_be16(packet + 2, (uint16_t)length);
        else
            tc_put_be16(packet + 4, (uint16_t)(length - 40));
    }
    cut(&vnet, packet, length);
    cut(NULL, packet, length);
    free(packet);
    return 0;
}
