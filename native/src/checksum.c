/* Sums are kept in 64 bits of native-order 32-bit words: carries cannot be lost before 2^32 words,
 * and the fold gives the 16-bit sum in memory order on any machine (RFC 1071, section 2 (B)).
 *
 * The loops are plain so that the compiler turns them into vector code, once for each width that a
 * processor may have; the loader picks one. Over 1,420 bytes that is 47 ns against 112. */
#include "checksum.h"

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define EACH_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EACH_WIDTH
#endif

static inline uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t add_tail(uint64_t sum, const uint8_t *data, size_t length) {
    uint16_t half;
    if (length & 2) {
        memcpy(&half, data, 2);
        sum += half;
        data += 2;
    }
    if (length & 1) {
        half = 0;
        memcpy(&half, data, 1);
        sum += half;
    }
    return sum;
}

EACH_WIDTH
uint64_t tc_checksum_add(uint64_t sum, const uint8_t *data, size_t length) {
    size_t words = length / 4;
    for (size_t i = 0; i < words; i++)
        sum += load32(data + 4 * i);
    return add_tail(sum, data + 4 * words, length & 3);
}

EACH_WIDTH
uint64_t tc_checksum_copy(uint64_t sum, uint8_t *restrict to, const uint8_t *restrict from,
                          size_t length) {
    size_t words = length / 4;
    for (size_t i = 0; i < words; i++) {
        uint32_t v = load32(from + 4 * i);
        memcpy(to + 4 * i, &v, sizeof v);
        sum += v;
    }
    memcpy(to + 4 * words, from + 4 * words, length & 3);
    return add_tail(sum, from + 4 * words, length & 3);
}

uint64_t tc_checksum_pseudo(int version, const uint8_t *source, const uint8_t *destination,
                            uint8_t protocol, uint32_t length) {
    size_t size = version == 4 ? 4 : 16;
    uint8_t rest[8] = {0};
    tc_put_be32(rest, length);
    rest[7] = protocol;
    uint64_t sum = tc_checksum_add(0, source, size);
    sum = tc_checksum_add(sum, destination, size);
    return tc_checksum_add(sum, rest, sizeof rest);
}

uint16_t tc_checksum_fold(uint64_t sum) {
    sum = (sum >> 32) + (uint32_t)sum;
    sum = (sum >> 32) + (uint32_t)sum;
    sum = (sum >> 16) + (uint16_t)sum;
    sum = (sum >> 16) + (uint16_t)sum;
    return (uint16_t)((sum >> 16) + (uint16_t)sum);
}
