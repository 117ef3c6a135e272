/* The input describes packets of two flows. Whatever joins must come apart into the same packets
 * again, but for the IPv4 identification; nothing joins whose checksum is wrong. */
#include "checksum.h"
#include "coalesce.h"
#include "fuzz.h"
#include "packet.h"

enum { PACKETS = 40, BYTES = 700, TCP_HEADER = 20 };

typedef struct {
    uint8_t bytes[BYTES];
    uint32_t length;
    bool wrong; /* a checksum */
} sample;

static void put_sum(uint8_t *field, uint64_t sum) {
    uint16_t value = (uint16_t)~tc_checksum_fold(sum);
    memcpy(field, &value, 2);
}

/* A few bytes of input each, mostly making packets that could join. */
static void make(fuzz_input *input, sample *s, uint32_t *seq) {
    uint8_t shape = fuzz_byte(input), odd = fuzz_byte(input);
    bool v6 = shape & 1, tcp = shape & 2;
    uint32_t ip = v6 ? 40 : 20, options = tcp && odd & 1 ? 12 : 0;
    uint32_t payload = shape & 4 ? 100 : fuzz_byte(input) * 2u;
    uint32_t header = tcp ? TCP_HEADER + options : 8, below = header + payload;
    uint8_t *p = s->bytes, *t = p + ip;
    memset(p, 0, ip + header);
    s->length = ip + below;
    p[0] = v6 ? 0x60 : 0x45;
    if (v6) {
        tc_put_be16(p + 4, (uint16_t)below);
        p[6] = tcp ? TC_PROTO_TCP : TC_PROTO_UDP;
        p[7] = 64;
    } else {
        tc_put_be16(p + 2, (uint16_t)s->length);
        p[8] = 64;
        p[9] = tcp ? TC_PROTO_TCP : TC_PROTO_UDP;
    }
    t[1] = shape & 8 ? 1 : 0;
    t[3] = 9;
    if (tcp) {
        tc_put_be32(t + 4, *seq);
        *seq += payload;
        t[12] = (uint8_t)(header * 4);
        t[13] = shape & 16 ? 0x18 : 0x10;
    } else {
        tc_put_be16(t + 4, (uint16_t)below);
    }
    for (uint32_t i = 0; i < payload; i++)
        t[header + i] = (uint8_t)(i * 3 + shape);
    if (odd & 2) /* any byte of the headers */
        p[fuzz_byte(input) % (ip + header)] = fuzz_byte(input);
    uint8_t *field = t + (tcp ? 16 : 6);
    field[0] = field[1] = 0;
    uint64_t pseudo = tc_checksum_pseudo(v6 ? 6 : 4, p + (v6 ? 8 : 12), p + (v6 ? 24 : 16),
                                         tcp ? TC_PROTO_TCP : TC_PROTO_UDP, below);
    put_sum(field, tc_checksum_add(pseudo, t, below));
    if (!v6) {
        p[10] = p[11] = 0;
        put_sum(p + 10, tc_checksum_add(0, p, 20));
    }
    s->wrong = odd & 4;
    if (s->wrong)
        field[0] ^= 1;
}

static bool same_but_identification(const uint8_t *a, const uint8_t *b, uint32_t length) {
    if (a[0] >> 4 == 6)
        return !memcmp(a, b, length);
    return !memcmp(a, b, 4) && !memcmp(a + 6, b + 6, 4) && !memcmp(a + 12, b + 12, length - 12);
}

/* Ends the super-packet that samples first to end - 1 are in, and takes it apart. */
static void check(tc_super *super, const sample *samples, uint32_t first, uint32_t end) {
    struct virtio_net_hdr vnet;
    uint32_t length, count = super->count;
    MUST(count == end - first);
    const uint8_t *packet = tc_super_end(super, &vnet, &length);
    if (count == 1) {
        MUST(packet == samples[first].bytes && length == samples[first].length);
        return;
    }
    tc_unit unit;
    uint8_t out[BYTES];
    MUST(tc_unit_open(&unit, &vnet, packet, length) == 0 && unit.count == count);
    for (uint32_t i = first; i < end; i++) {
        MUST(!samples[i].wrong);
        uint32_t size = tc_unit_next(&unit, out);
        MUST(size == samples[i].length);
        MUST(same_but_identification(out, samples[i].bytes, size));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static sample samples[PACKETS];
    static uint8_t memory[TC_UNIT_MAX];
    fuzz_input input = {data, size};
    tc_super super = {.buffer = memory};
    uint32_t seq = (uint32_t)fuzz_word(&input), count = 0, first = 0;
    for (; count < PACKETS && input.size; count++) {
        sample *s = &samples[count];
        make(&input, s, &seq);
        uint32_t total = tc_packet_total(s->bytes, s->length);
        tc_candidate candidate;
        if (!total)
            break;
        s->length = total;
        tc_candidate_read(&candidate, s->bytes, total, 0);
        if (super.count && tc_super_join(&super, &candidate))
            continue;
        if (super.count)
            check(&super, samples, first, count);
        first = count;
        tc_super_start(&super, &candidate);
    }
    if (super.count)
        check(&super, samples, first, count);
    return 0;
}
