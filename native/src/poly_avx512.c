/* Poly1305 with AVX-512: eight messages at once, one in each 64-bit lane, in limbs of 26 bits,
 * since the widest multiplication without IFMA is 32 x 32 -> 64. */
#include "aead_kernel.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC optimize("no-tree-ter")
#endif
#include "poly_lanes.h"

#define VECTOR __attribute__((target(TC_AVX512)))
#define INLINE TC_INLINE_AVX512

enum { LIMBS = 5, TOP_BIT = 1 << 24 };

typedef struct {
    __m512i limb[LIMBS];
} number;

/* A factor, and five times its limbs 1 to 4, for what wraps around 2^130 = 5. */
typedef struct {
    __m512i limb[LIMBS];
    __m512i five[LIMBS];
} factor;

INLINE __m512i limb_mask(void) {
    return _mm512_set1_epi64(0x3ffffff);
}

INLINE number split(__m512i low, __m512i high, __m512i top) {
    const __m512i mask = limb_mask();
    number n;
    n.limb[0] = _mm512_and_si512(low, mask);
    n.limb[1] = _mm512_and_si512(_mm512_srli_epi64(low, 26), mask);
    n.limb[2] = _mm512_and_si512(
        _mm512_or_si512(_mm512_srli_epi64(low, 52), _mm512_slli_epi64(high, 12)), mask);
    n.limb[3] = _mm512_and_si512(_mm512_srli_epi64(high, 14), mask);
    n.limb[4] = _mm512_or_si512(_mm512_srli_epi64(high, 40), top);
    return n;
}

INLINE factor factor_of(number n) {
    factor f;
    for (int i = 0; i < LIMBS; i++) {
        f.limb[i] = n.limb[i];
        f.five[i] = _mm512_add_epi64(n.limb[i], _mm512_slli_epi64(n.limb[i], 2));
    }
    return f;
}

/* Adds a * f to sum, which is not carried. */
INLINE void multiply_add(__m512i sum[LIMBS], const number *a, const factor *f) {
    for (int i = 0; i < LIMBS; i++)
        for (int j = 0; j < LIMBS; j++) {
            __m512i by = j <= i ? f->limb[i - j] : f->five[LIMBS + i - j];
            sum[i] = _mm512_add_epi64(sum[i], _mm512_mul_epu32(a->limb[j], by));
        }
}

INLINE void carry_into(__m512i sum[LIMBS], int from, int to) {
    sum[to] = _mm512_add_epi64(sum[to], _mm512_srli_epi64(sum[from], 26));
    sum[from] = _mm512_and_si512(sum[from], limb_mask());
}

INLINE void carry_around(__m512i sum[LIMBS]) {
    __m512i over = _mm512_srli_epi64(sum[4], 26);
    sum[4] = _mm512_and_si512(sum[4], limb_mask());
    sum[0] = _mm512_add_epi64(sum[0], _mm512_add_epi64(over, _mm512_slli_epi64(over, 2)));
}

/* Sums are below 2^59 here: ten products of at most (2^27 + 2^10) * 5 * (2^26 + 2^10). Limbs come
 * out below 2^26 + 2^10. Two chains, so that one need not wait for the other. */
INLINE number carried(__m512i sum[LIMBS]) {
    number n;
    carry_into(sum, 0, 1);
    carry_into(sum, 3, 4);
    carry_into(sum, 1, 2);
    carry_around(sum);
    carry_into(sum, 2, 3);
    carry_into(sum, 0, 1);
    carry_into(sum, 3, 4);
    for (int i = 0; i < LIMBS; i++)
        n.limb[i] = sum[i];
    return n;
}

/* h = (h + m1) r^2 + m2 r, for a pair of blocks. m2 goes first: it need not wait for h. */
INLINE void absorb(number *h, const __m512i words[4], const __m512i top[2], const factor *r,
                   const factor *r2) {
    __m512i sum[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        sum[i] = _mm512_setzero_si512();
    number m = split(words[2], words[3], top[1]);
    multiply_add(sum, &m, r);
    m = split(words[0], words[1], top[0]);
    for (int i = 0; i < LIMBS; i++)
        m.limb[i] = _mm512_add_epi64(m.limb[i], h->limb[i]);
    multiply_add(sum, &m, r2);
    *h = carried(sum);
}

INLINE void inner_pair(number *h, const tc_poly_layout *l, int64_t at, const factor *r,
                       const factor *r2) {
    const __m512i top[2] = {_mm512_set1_epi64(TOP_BIT), _mm512_set1_epi64(TOP_BIT)};
    __m512i words[4];
    tc_lanes_inner(words, l, at);
    absorb(h, words, top, r, r2);
}

VECTOR static void outer_pair(number *h, const tc_poly_layout *l, int64_t at, const factor *r,
                              const factor *r2) {
    const __m512i top[2] = {tc_lanes_top(l, at, TOP_BIT), tc_lanes_top(l, at + 16, TOP_BIT)};
    __m512i words[4];
    tc_lanes_outer(words, l, at);
    absorb(h, words, top, r, r2);
}

/* h = (h + m) r, for the block of lengths. */
INLINE void absorb_last(number *h, const tc_poly_layout *l, const factor *r) {
    __m512i sum[LIMBS];
    number m = split(l->last[0], l->last[1], _mm512_set1_epi64(TOP_BIT));
    for (int i = 0; i < LIMBS; i++) {
        m.limb[i] = _mm512_add_epi64(m.limb[i], h->limb[i]);
        sum[i] = _mm512_setzero_si512();
    }
    multiply_add(sum, &m, r);
    *h = carried(sum);
}

/* h modulo 2^130 - 5, plus s modulo 2^128. */
INLINE void finish(const number *h, const __m512i s[2], const tc_poly_message *messages) {
    __m512i x[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        x[i] = h->limb[i];
    for (int i = 0; i < LIMBS - 1; i++)
        carry_into(x, i, i + 1);
    carry_around(x);
    /* x is below 2^130 + 5 now, which is less than twice the modulus. It is not below the modulus
     * just where x + 5 has bit 130, and x + 5 without that bit is the result then. What is above
     * bit 128 goes by itself. */
    __m512i over = _mm512_set1_epi64(5);
    for (int i = 0; i < LIMBS; i++)
        over = _mm512_srli_epi64(_mm512_add_epi64(x[i], over), 26);
    x[0] = _mm512_add_epi64(x[0], _mm512_add_epi64(over, _mm512_slli_epi64(over, 2)));
    __m512i low = _mm512_add_epi64(x[0], _mm512_slli_epi64(x[1], 26));
    __m512i high =
        _mm512_or_si512(_mm512_srli_epi64(x[2], 12),
                        _mm512_or_si512(_mm512_slli_epi64(x[3], 14), _mm512_slli_epi64(x[4], 40)));
    tc_lanes_add(&low, &high, _mm512_slli_epi64(x[2], 52));
    tc_lanes_tags(low, high, s, messages);
}

VECTOR void tc_poly_avx512(const tc_poly_message *given, size_t count) {
    tc_poly_message whole[TC_POLY_WIDTH];
    const tc_poly_message *messages = tc_lanes_fill(whole, given, count);
    __m512i words[4], square[LIMBS];
    tc_lanes_keys(words, messages);
    number r_number = split(words[0], words[1], _mm512_setzero_si512());
    factor r = factor_of(r_number);
    for (int i = 0; i < LIMBS; i++)
        square[i] = _mm512_setzero_si512();
    multiply_add(square, &r_number, &r);
    factor r2 = factor_of(carried(square));

    tc_poly_layout l;
    tc_lanes_lay_out(&l, messages);
    number h;
    for (int i = 0; i < LIMBS; i++)
        h.limb[i] = _mm512_setzero_si512();
    int64_t at = 0;
    for (; at < l.inner_start; at += TC_PAIR_BYTES)
        outer_pair(&h, &l, at, &r, &r2);
    for (; at < l.inner_end; at += TC_PAIR_BYTES)
        inner_pair(&h, &l, at, &r, &r2);
    for (; at < l.bytes; at += TC_PAIR_BYTES)
        outer_pair(&h, &l, at, &r, &r2);
    if (tc_lanes_last_alone(&l))
        absorb_last(&h, &l, &r);
    finish(&h, words + 2, messages);
}

#endif
