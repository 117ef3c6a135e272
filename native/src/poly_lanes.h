/* What the Poly1305 kernels of AVX-512 have in common: eight messages side by side, one in each
 * 64-bit lane, whichever way they multiply. */
#ifndef TC_POLY_LANES_H
#define TC_POLY_LANES_H

#include "poly_layout.h"

#include <immintrin.h>
#include <stdalign.h>

#define TC_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,bmi2"
#define TC_INLINE_AVX512                                                                           \
    __attribute__((target(TC_AVX512))) static inline __attribute__((always_inline))

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

/* The keys' words: r and s, not clamped yet. */
TC_INLINE_AVX512 void tc_lanes_keys(__m512i words[4], const tc_poly_message *messages,
                                    size_t count) {
    __m256i keys[TC_POLY_WIDTH];
    for (size_t i = 0; i < TC_POLY_WIDTH; i++)
        keys[i] = _mm256_loadu_si256((const void *)messages[i < count ? i : 0].key);
    tc_lanes_gather(words, keys);
    words[0] = _mm512_and_si512(words[0], _mm512_set1_epi64(0x0ffffffc0fffffff));
    words[1] = _mm512_and_si512(words[1], _mm512_set1_epi64(0x0ffffffc0ffffffc));
}

/* A pair of blocks where all messages have both. */
TC_INLINE_AVX512 void tc_lanes_inner(__m512i words[4], const tc_poly_layout *l, int64_t at) {
    __m256i pieces[TC_POLY_WIDTH];
    for (int i = 0; i < TC_POLY_WIDTH; i++)
        pieces[i] = _mm256_loadu_si256((const void *)tc_poly_place(l, i, at));
    tc_lanes_gather(words, pieces);
}

/* A pair anywhere: zeros where a message has not begun or has ended. */
TC_INLINE_AVX512 void tc_lanes_outer(__m512i words[4], const tc_poly_layout *l, int64_t at) {
    const __m512i none = _mm512_setzero_si512(), one = _mm512_set1_epi64(1);
    const __m512i all = _mm512_set1_epi64(TC_PAIR_BYTES), here = _mm512_set1_epi64(at);
    __m512i from = _mm512_sub_epi64(_mm512_loadu_si512(l->start), here);
    __m512i to = _mm512_sub_epi64(_mm512_loadu_si512(l->end), here);
    from = _mm512_sllv_epi64(one, _mm512_min_epi64(_mm512_max_epi64(from, none), all));
    to = _mm512_sllv_epi64(one, _mm512_min_epi64(_mm512_max_epi64(to, none), all));
    alignas(64) uint64_t masks[TC_POLY_WIDTH];
    __m256i pieces[TC_POLY_WIDTH];
    _mm512_store_si512(masks, _mm512_sub_epi64(to, from));
    for (int i = 0; i < TC_POLY_WIDTH; i++)
        pieces[i] = _mm256_maskz_loadu_epi8((__mmask32)masks[i], tc_poly_place(l, i, at));
    tc_lanes_gather(words, pieces);
    if (at + TC_PAIR_BYTES > l->data_end) {
        words[2] = _mm512_loadu_si512(l->last[0]);
        words[3] = _mm512_loadu_si512(l->last[1]);
    }
}

/* The 2^128 bit of the block at this byte of the sequence, as this bit of each lane, where the
 * message has one there. */
TC_INLINE_AVX512 __m512i tc_lanes_top(const tc_poly_layout *l, int64_t at, int64_t bit) {
    __mmask8 begun = _mm512_cmple_epi64_mask(_mm512_loadu_si512(l->start), _mm512_set1_epi64(at));
    return _mm512_maskz_set1_epi64(begun, bit);
}

/* Tags: the two words of each, which lie side by side in lanes of 128 bits for it. */
TC_INLINE_AVX512 void tc_lanes_tags(__m512i low, __m512i high, const tc_poly_message *messages,
                                    size_t count) {
    alignas(64) uint64_t tags[2][TC_POLY_WIDTH];
    _mm512_store_si512(tags[0], _mm512_unpacklo_epi64(low, high));
    _mm512_store_si512(tags[1], _mm512_unpackhi_epi64(low, high));
    for (size_t i = 0; i < count; i++)
        memcpy(messages[i].tag, &tags[i & 1][i & ~(size_t)1], 16);
}

#endif
