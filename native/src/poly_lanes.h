/* What the Poly1305 kernels of AVX-512 have in common (RFC 8439, section 2.5): eight messages side
 * by side, one in each 64-bit lane, whichever way they multiply.
 *
 * Two blocks a step, h = (h + m1) r^2 + m2 r, so that one carry serves two blocks. Messages of
 * unequal length are aligned at their ends in one sequence of pairs of blocks: a shorter one begins
 * with blocks that are zero and lack the 2^128 bit, which leave h = 0 as it is. So all lanes run
 * alike, and none needs to be masked in the arithmetic. The block of lengths is the second of the
 * last pair, or comes alone after it, so that the longest message begins with a whole pair. */
#ifndef TC_POLY_LANES_H
#define TC_POLY_LANES_H

#include "aead_kernel.h"

#include <immintrin.h>
#include <stdalign.h>
#include <stddef.h>

#define TC_POLY_WIDTH 8
#define TC_PAIR_BYTES 32

#define TC_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,bmi2"
#define TC_INLINE_AVX512                                                                           \
    __attribute__((target(TC_AVX512))) static inline __attribute__((always_inline))

typedef struct {
    alignas(64) uint64_t zero[TC_POLY_WIDTH]; /* where the sequence's byte 0 would be in memory */
    __m512i start;                            /* byte of the sequence at which the message begins */
    __m512i end;                              /* and ends, before its padding */
    __m512i last[2];                          /* the block of lengths */
    int64_t inner_start; /* a whole number of pairs: from here all messages have begun, */
    int64_t inner_end;   /* and up to here none has ended */
    int64_t data_end;    /* where the padding ends */
    int64_t bytes;       /* of the pairs */
} tc_poly_layout;

/* The four 64-bit words of 32 bytes of each message: word w of message i to lane i of words[w]. */
TC_INLINE_AVX512 void tc_lanes_gather(__m512i words[4], const __m256i pieces[TC_POLY_WIDTH]) {
    __m512i even[4];
    for (int i = 0; i < 4; i++) { /* messages 0 and 2, 1 and 3, 4 and 6, 5 and 7 */
        int first = (i & 1) + (i & 2) * 2;
        even[i] = _mm512_inserti64x4(_mm512_castsi256_si512(pieces[first]), pieces[first + 2], 1);
    }
    __m512i a = _mm512_unpacklo_epi64(even[0], even[1]);
    __m512i b = _mm512_unpackhi_epi64(even[0], even[1]);
    __m512i c = _mm512_unpacklo_epi64(even[2], even[3]);
    __m512i d = _mm512_unpackhi_epi64(even[2], even[3]);
    words[0] = _mm512_shuffle_i64x2(a, c, 0x88);
    words[1] = _mm512_shuffle_i64x2(b, d, 0x88);
    words[2] = _mm512_shuffle_i64x2(a, c, 0xdd);
    words[3] = _mm512_shuffle_i64x2(b, d, 0xdd);
}

/* Eight messages: where there are fewer, the first one also in the place of the others. */
static inline const tc_poly_message *tc_lanes_fill(tc_poly_message whole[TC_POLY_WIDTH],
                                                   const tc_poly_message *messages, size_t count) {
    if (count == TC_POLY_WIDTH)
        return messages;
    for (size_t i = 0; i < TC_POLY_WIDTH; i++)
        whole[i] = messages[i < count ? i : 0];
    return whole;
}

/* The largest of both halves of all lanes. */
TC_INLINE_AVX512 uint64_t tc_lanes_most(__m512i halves) {
    __m256i four =
        _mm256_max_epu32(_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64(halves, 1));
    __m128i two = _mm_max_epu32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    return (uint64_t)_mm_cvtsi128_si64(_mm_max_epu32(two, _mm_unpackhi_epi64(two, two)));
}

/* The messages' fields are read in one piece and brought together as their data is. */
TC_INLINE_AVX512 void tc_lanes_lay_out(tc_poly_layout *l, const tc_poly_message *messages) {
    _Static_assert(offsetof(tc_poly_message, length) == offsetof(tc_poly_message, data) + 8 &&
                       offsetof(tc_poly_message, end) == offsetof(tc_poly_message, data) + 16,
                   "the fields are read as four words");
    __m256i pieces[TC_POLY_WIDTH];
    __m512i fields[4];
    for (int i = 0; i < TC_POLY_WIDTH; i++)
        pieces[i] = _mm256_loadu_si256((const void *)&messages[i].data);
    tc_lanes_gather(fields, pieces);
    __m512i length = _mm512_and_si512(fields[1], _mm512_set1_epi64(UINT32_MAX));
    __m512i padded =
        _mm512_and_si512(_mm512_add_epi64(length, _mm512_set1_epi64(15)), _mm512_set1_epi64(-16));
    __m512i inverse = _mm512_slli_epi64(_mm512_xor_si512(padded, _mm512_set1_epi64(-1)), 32);
    uint64_t most = tc_lanes_most(_mm512_or_si512(padded, inverse));
    int64_t longest = (uint32_t)most, shortest = (uint32_t) ~(most >> 32);
    bool padding = _mm512_test_epi64_mask(length, _mm512_set1_epi64(15));
    l->data_end = longest;
    l->bytes = longest & -TC_PAIR_BYTES;
    l->bytes += longest & 16 ? TC_PAIR_BYTES : 0;
    l->start = _mm512_sub_epi64(_mm512_set1_epi64(longest), padded);
    l->end = _mm512_add_epi64(l->start, length);
    _mm512_store_si512(l->zero, _mm512_sub_epi64(fields[0], l->start));
    l->last[0] = fields[2];
    l->last[1] = fields[3];
    l->inner_start = (longest - shortest + 16) & -TC_PAIR_BYTES;
    l->inner_end = (longest - (padding ? 16 : 0)) & -TC_PAIR_BYTES;
    if (l->inner_end < l->inner_start)
        l->inner_end = l->inner_start = l->bytes;
}

/* Whether the block of lengths comes after the pairs. */
static inline bool tc_lanes_last_alone(const tc_poly_layout *l) {
    return l->data_end == l->bytes;
}

/* The keys' words: r, clamped, and s. */
TC_INLINE_AVX512 void tc_lanes_keys(__m512i words[4], const tc_poly_message *messages) {
    __m256i keys[TC_POLY_WIDTH];
    for (size_t i = 0; i < TC_POLY_WIDTH; i++)
        keys[i] = _mm256_loadu_si256((const void *)messages[i].key);
    tc_lanes_gather(words, keys);
    words[0] = _mm512_and_si512(words[0], _mm512_set1_epi64(0x0ffffffc0fffffff));
    words[1] = _mm512_and_si512(words[1], _mm512_set1_epi64(0x0ffffffc0ffffffc));
}

static inline const void *tc_lanes_place(const tc_poly_layout *l, int lane, int64_t at) {
    return (const void *)(uintptr_t)(l->zero[lane] + (uint64_t)at);
}

/* A pair of blocks where all messages have both. */
TC_INLINE_AVX512 void tc_lanes_inner(__m512i words[4], const tc_poly_layout *l, int64_t at) {
    __m256i pieces[TC_POLY_WIDTH];
    for (int i = 0; i < TC_POLY_WIDTH; i++)
        pieces[i] = _mm256_loadu_si256(tc_lanes_place(l, i, at));
    tc_lanes_gather(words, pieces);
}

/* A pair anywhere: zeros where a message has not begun or has ended. */
TC_INLINE_AVX512 void tc_lanes_outer(__m512i words[4], const tc_poly_layout *l, int64_t at) {
    const __m512i none = _mm512_setzero_si512(), one = _mm512_set1_epi64(1);
    const __m512i all = _mm512_set1_epi64(TC_PAIR_BYTES), here = _mm512_set1_epi64(at);
    __m512i from = _mm512_sub_epi64(l->start, here), to = _mm512_sub_epi64(l->end, here);
    from = _mm512_sllv_epi64(one, _mm512_min_epi64(_mm512_max_epi64(from, none), all));
    to = _mm512_sllv_epi64(one, _mm512_min_epi64(_mm512_max_epi64(to, none), all));
    alignas(64) uint64_t masks[TC_POLY_WIDTH];
    __m256i pieces[TC_POLY_WIDTH];
    _mm512_store_si512(masks, _mm512_sub_epi64(to, from));
    for (int i = 0; i < TC_POLY_WIDTH; i++)
        pieces[i] = _mm256_maskz_loadu_epi8((__mmask32)masks[i], tc_lanes_place(l, i, at));
    tc_lanes_gather(words, pieces);
    if (at + TC_PAIR_BYTES > l->data_end) {
        words[2] = l->last[0];
        words[3] = l->last[1];
    }
}

/* The 2^128 bit of the block at this byte of the sequence, as this bit of each lane, where the
 * message has one there. */
TC_INLINE_AVX512 __m512i tc_lanes_top(const tc_poly_layout *l, int64_t at, int64_t bit) {
    return _mm512_maskz_set1_epi64(_mm512_cmple_epi64_mask(l->start, _mm512_set1_epi64(at)), bit);
}

/* (low + addend) + 2^64 high. */
TC_INLINE_AVX512 void tc_lanes_add(__m512i *low, __m512i *high, __m512i addend) {
    *low = _mm512_add_epi64(*low, addend);
    __mmask8 carry = _mm512_cmplt_epu64_mask(*low, addend);
    *high = _mm512_mask_add_epi64(*high, carry, *high, _mm512_set1_epi64(1));
}

/* Adds s, and writes the tags, whose words lie side by side in lanes of 128 bits for it. */
TC_INLINE_AVX512 void tc_lanes_tags(__m512i low, __m512i high, const __m512i s[2],
                                    const tc_poly_message *messages) {
    alignas(64) uint64_t tags[2][TC_POLY_WIDTH];
    tc_lanes_add(&low, &high, s[0]);
    high = _mm512_add_epi64(high, s[1]);
    _mm512_store_si512(tags[0], _mm512_unpacklo_epi64(low, high));
    _mm512_store_si512(tags[1], _mm512_unpackhi_epi64(low, high));
    for (size_t i = 0; i < TC_POLY_WIDTH; i++)
        memcpy(messages[i].tag, &tags[i & 1][i & ~(size_t)1], 16);
}

#endif
