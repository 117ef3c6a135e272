/* The input is one packet: what the parser takes is within bounds, the checksum of any part is that
 * of the plain loop, and whom the packet is for, and whether it is intact, can be told of any. */
#include "checksum.h"
#include "claims.h"
#include "fuzz.h"
#include "intact.h"
#include "packet.h"

static uint16_t plain(const uint8_t *data, size_t length) {
    uint32_t sum = 0;
    for (size_t i = 0; i < length; i++) {
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)sum;
}

static void check_checksum(const uint8_t *data, size_t length) {
    uint8_t *copy = malloc(length + 1);
    MUST(copy);
    uint64_t sum = tc_checksum_copy(0, copy, data, length);
    MUST(tc_checksum_fold(sum) == tc_checksum_fold(tc_checksum_add(0, data, length)));
    MUST(memcmp(copy, data, length) == 0);
    free(copy);
    uint16_t folded = tc_checksum_fold(sum);
    uint8_t bytes[2];
    memcpy(bytes, &folded, 2);
    MUST(tc_get_be16(bytes) == plain(data, length));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tc_packet out;
    uint32_t total = tc_packet_total(data, size);
    MUST(total <= size);
    int result = tc_parse(data, (uint32_t)size, &out);
    MUST(result == 0 || total == 0 || out.total == total);
    if (result == 0) {
        MUST(total == out.total && (out.version == 4 || out.version == 6));
        MUST(total >= (out.version == 4 ? 20u : 40u));
        MUST(out.transport_offset >= (out.version == 4 ? 20 : 40));
        MUST(out.payload_offset >= out.transport_offset && out.payload_offset <= total);
        if (out.transport == TC_PROTO_TCP)
            MUST(out.payload_offset - out.transport_offset >= 20);
        if (out.transport == TC_PROTO_NONE)
            MUST(!out.source_port && !out.destination_port);
        check_checksum(data + out.transport_offset, total - out.transport_offset);
    }
    check_checksum(data, size);
    static tc_claims all, none;
    memset(all.ports, 0xff, sizeof all.ports);
    all.count = 1;
    if (!total)
        return 0;
    MUST(result == 0 || !tc_packet_intact(data, total));
    MUST(tc_claims_find(&none, data, total) == TC_FOR_LINK);
    tc_destination whose = tc_claims_find(&all, data, total);
    MUST(result == 0 || whose == TC_FOR_LINK);
    if (result == 0 && (out.transport == TC_PROTO_TCP || out.transport == TC_PROTO_UDP))
        MUST(whose == TC_FOR_PORT);
    return 0;
}
