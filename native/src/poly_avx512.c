/* Poly1305 with AVX-512: eight messages at once, one in each 64-bit lane, in words of 32 bits,
 * since the widest multiplication without IFMA is 32 x 32 -> 64.
 *
 * h = (h + m) r a block, with h in sums of 64 bits, each in units of 2^32 of the one before. What a
 * sum has above its lower 32 bits is carried into the next, but not cleared: a multiplication reads
 * the lower 32 bits alone. r is clamped: the words of it have 28 bits, and but for the first they
 * are multiples of four, so what they multiply to 2^128 or above wraps around exactly, as five
 * quarters of the word. Only the product of the uppermost sum and the first word has to be split.
 *
 * Bounds, in units of 2^60: a product is below 1, below 5/4 if it wraps. Sum 0 has one and three
 * that wrap, and five quarters of the uppermost product: 6. Sums 1 to 3 are below 23/4, 11/2 and
 * 21/4. With a word of the block and a carry all are below 2^63, and the uppermost is below 2^31.
 */
#include "aead_kernel.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC optimize("no-tree-ter")
#endif
#include "poly_lanes.h"

#define VECTOR __attribute__((target(TC_AVX512)))
#define INLINE TC_INLINE_AVX512

enum { WORDS = 4, TOP_BIT = 1 };

typedef struct {
    __m512i part[WORDS + 1];
} sum;

/* r, and five quarters of its words 1 to 3. */
typedef struct {
    __m512i word[WORDS];
    __m512i wrapped[WORDS];
} factor;

INLINE __m512i lower_half(__m512i x) {
    return _mm512_and_si512(x, _mm512_set1_epi64(UINT32_MAX));
}

INLINE __m512i upper_half(__m512i x) {
    return _mm512_srli_epi64(x, 32);
}

INLINE factor factor_of(__m512i low, __m512i high) {
    factor r = {.word = {lower_half(low), upper_half(low), lower_half(high), upper_half(high)}};
    for (int i = 1; i < WORDS; i++)
        r.wrapped[i] = _mm512_add_epi64(r.word[i], _mm512_srli_epi64(r.word[i], 2));
    return r;
}

INLINE void carry(sum *h) {
    for (int i = 0; i < WORDS; i++)
        h->part[i + 1] = _mm512_add_epi64(h->part[i + 1], upper_half(h->part[i]));
}

/* h r; h is carried, the result is not. What comes last in h is added last. */
INLINE sum multiply(const sum *h, const factor *r) {
    const __m512i three = _mm512_set1_epi64(3);
    sum p;
    for (int i = 0; i < WORDS; i++)
        p.part[i] = _mm512_mul_epu32(h->part[0], r->word[i]);
    for (int j = 1; j < WORDS; j++)
        for (int i = 0; i < WORDS; i++) {
            __m512i by = j <= i ? r->word[i - j] : r->wrapped[WORDS + i - j];
            p.part[i] = _mm512_add_epi64(p.part[i], _mm512_mul_epu32(h->part[j], by));
        }
    for (int i = 1; i < WORDS; i++)
        p.part[i] = _mm512_add_epi64(p.part[i], _mm512_mul_epu32(h->part[WORDS], r->wrapped[i]));
    __m512i top = _mm512_mul_epu32(h->part[WORDS], r->word[0]);
    p.part[0] = _mm512_add_epi64(p.part[0], _mm512_andnot_si512(three, top));
    p.part[0] = _mm512_add_epi64(p.part[0], _mm512_srli_epi64(top, 2));
    p.part[WORDS] = _mm512_and_si512(top, three);
    return p;
}

INLINE void absorb(sum *h, __m512i low, __m512i high, __m512i top, const factor *r) {
    h->part[0] = _mm512_add_epi64(h->part[0], lower_half(low));
    h->part[1] = _mm512_add_epi64(h->part[1], upper_half(low));
    h->part[2] = _mm512_add_epi64(h->part[2], lower_half(high));
    h->part[3] = _mm512_add_epi64(h->part[3], upper_half(high));
    h->part[4] = _mm512_add_epi64(h->part[4], top);
    carry(h);
    *h = multiply(h, r);
}

INLINE void inner_pair(sum *h, const tc_poly_layout *l, int64_t at, const factor *r) {
    const __m512i top = _mm512_set1_epi64(TOP_BIT);
    __m512i words[4];
    tc_lanes_inner(words, l, at);
    absorb(h, words[0], words[1], top, r);
    absorb(h, words[2], words[3], top, r);
}

VECTOR static void outer_pair(sum *h, const tc_poly_layout *l, int64_t at, const factor *r) {
    __m512i words[4];
    tc_lanes_outer(words, l, at);
    absorb(h, words[0], words[1], tc_lanes_top(l, at, TOP_BIT), r);
    absorb(h, words[2], words[3], tc_lanes_top(l, at + 16, TOP_BIT), r);
}

/* h modulo 2^130 - 5, plus s modulo 2^128. */
INLINE void finish(sum *h, const __m512i s[2], const tc_poly_message *messages) {
    carry(h);
    __m512i x[WORDS], top = h->part[WORDS], over = _mm512_srli_epi64(top, 2);
    for (int i = 0; i < WORDS; i++)
        x[i] = lower_half(h->part[i]);
    top = _mm512_and_si512(top, _mm512_set1_epi64(3));
    x[0] = _mm512_add_epi64(x[0], _mm512_add_epi64(over, _mm512_slli_epi64(over, 2)));
    /* x is below 2^130 + 2^32 now, which is less than twice the modulus. It is not below the
     * modulus just where x + 5 has bit 130, and x + 5 without that bit is the result then. What is
     * above bit 128 goes by itself. */
    over = _mm512_set1_epi64(5);
    for (int i = 0; i < WORDS; i++)
        over = upper_half(_mm512_add_epi64(x[i], over));
    over = _mm512_srli_epi64(_mm512_add_epi64(top, over), 2);
    __m512i low = _mm512_add_epi64(x[0], _mm512_add_epi64(over, _mm512_slli_epi64(over, 2)));
    __m512i high = _mm512_or_si512(x[2], _mm512_slli_epi64(x[3], 32));
    tc_lanes_add(&low, &high, _mm512_slli_epi64(x[1], 32));
    tc_lanes_tags(low, high, s, messages);
}

VECTOR void tc_poly_avx512(const tc_poly_message *given, size_t count) {
    const __m512i zero = _mm512_setzero_si512();
    tc_poly_message whole[TC_POLY_WIDTH];
    const tc_poly_message *messages = tc_lanes_fill(whole, given, count);
    __m512i words[4];
    tc_lanes_keys(words, messages);
    factor r = factor_of(words[0], words[1]);
    tc_poly_layout l;
    tc_lanes_lay_out(&l, messages);
    sum h = {{zero, zero, zero, zero, zero}};
    int64_t at = 0;
    for (; at < l.inner_start; at += TC_PAIR_BYTES)
        outer_pair(&h, &l, at, &r);
    for (; at < l.inner_end; at += TC_PAIR_BYTES)
        inner_pair(&h, &l, at, &r);
    for (; at < l.bytes; at += TC_PAIR_BYTES)
        outer_pair(&h, &l, at, &r);
    if (tc_lanes_last_alone(&l))
        absorb(&h, l.last[0], l.last[1], _mm512_set1_epi64(TOP_BIT), &r);
    finish(&h, words + 2, messages);
}

#endif
