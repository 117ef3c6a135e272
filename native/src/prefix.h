/* Addresses as keys of 128 bits, the most significant bit first; an IPv4 address fills the first
 * 32. What the trie of allowed IPs asks of them. */
#ifndef TC_PREFIX_H
#define TC_PREFIX_H

#include "core.h"

#define TC_STRIDE 8 /* bits that tc_key_stride takes at once */

typedef struct {
    uint64_t high, low;
} tc_key;

static inline uint64_t tc_key_half(const uint8_t *p) {
    return (uint64_t)tc_get_be32(p) << 32 | tc_get_be32(p + 4);
}

static inline tc_key tc_key_make(int family, const uint8_t *address) {
    if (family == 4)
        return (tc_key){.high = (uint64_t)tc_get_be32(address) << 32};
    return (tc_key){.high = tc_key_half(address), .low = tc_key_half(address + 8)};
}

static inline tc_key tc_key_masked(tc_key k, uint32_t bits) {
    if (bits == 0)
        return (tc_key){0, 0};
    if (bits <= 64)
        return (tc_key){k.high & ~UINT64_C(0) << (64 - bits), 0};
    return (tc_key){k.high, k.low & ~UINT64_C(0) << (128 - bits)};
}

static inline unsigned tc_key_bit(tc_key k, uint32_t place) {
    return place < 64 ? k.high >> (63 - place) & 1 : k.low >> (127 - place) & 1;
}

/* The eight bits from place on; place + 8 is at most 128. */
static inline unsigned tc_key_stride(tc_key k, uint32_t place) {
    if (place <= 64 - TC_STRIDE)
        return (unsigned)(k.high >> (64 - TC_STRIDE - place)) & 0xff;
    if (place >= 64)
        return (unsigned)(k.low >> (128 - TC_STRIDE - place)) & 0xff;
    return (unsigned)(k.high << (place - (64 - TC_STRIDE)) | k.low >> (128 - TC_STRIDE - place)) &
           0xff;
}

static inline tc_key tc_key_with_stride(tc_key k, uint32_t place, unsigned value) {
    for (uint32_t i = 0; i < TC_STRIDE; i++) {
        uint64_t bit = value >> (TC_STRIDE - 1 - i) & 1;
        if (place + i < 64)
            k.high |= bit << (63 - place - i);
        else
            k.low |= bit << (127 - place - i);
    }
    return k;
}

static inline uint32_t tc_key_common(tc_key a, tc_key b) {
    if (a.high != b.high)
        return (uint32_t)__builtin_clzll(a.high ^ b.high);
    return a.low != b.low ? 64 + (uint32_t)__builtin_clzll(a.low ^ b.low) : 128;
}

#endif
