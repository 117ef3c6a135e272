/* Poly1305 with AVX-512: eight messages at once, one in each 64-bit lane, in limbs of 26 bits,
 * since the widest multiplication without IFMA is 32 x 32 -> 64. */
#include "poly_layout.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdalign.h>

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,bmi2")))
#if !defined(__clang__)
#pragma GCC optimize("no-tree-ter")
#endif
#define INLINE VECTOR static inline __attribute__((always_inline))

enum { WIDTH = 8, LIMBS = 5 };

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

/* The four 64-bit words of 32 bytes of each message: word w of message i to lane i of words[w]. */
INLINE void gather(__m512i words[4], const __m256i pieces[WIDTH]) {
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

/* 32 bytes of each message, zeros where it has not begun or has ended. */
INLINE void load_edges(__m256i pieces[WIDTH], const tc_poly_layout *l, int64_t at) {
    const __m512i none = _mm512_setzero_si512(), one = _mm512_set1_epi64(1);
    const __m512i all = _mm512_set1_epi64(TC_PAIR_BYTES), here = _mm512_set1_epi64(at);
    __m512i from = _mm512_sub_epi64(_mm512_loadu_si512(l->start), here);
    __m512i to = _mm512_sub_epi64(_mm512_loadu_si512(l->end), here);
    from = _mm512_sllv_epi64(one, _mm512_min_epi64(_mm512_max_epi64(from, none), all));
    to = _mm512_sllv_epi64(one, _mm512_min_epi64(_mm512_max_epi64(to, none), all));
    alignas(64) uint64_t masks[WIDTH];
    _mm512_store_si512(masks, _mm512_sub_epi64(to, from));
    for (int i = 0; i < WIDTH; i++)
        pieces[i] = _mm256_maskz_loadu_epi8((__mmask32)masks[i], tc_poly_place(l, i, at));
}

/* The 2^128 bit of the block at this byte of the sequence, where the message has one there. */
INLINE __m512i top_bit(const tc_poly_layout *l, int64_t at) {
    __mmask8 begun = _mm512_cmple_epi64_mask(_mm512_loadu_si512(l->start), _mm512_set1_epi64(at));
    return _mm512_maskz_set1_epi64(begun, 1 << 24);
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
    const __m512i top[2] = {_mm512_set1_epi64(1 << 24), _mm512_set1_epi64(1 << 24)};
    __m256i pieces[WIDTH];
    __m512i words[4];
    for (int i = 0; i < WIDTH; i++)
        pieces[i] = _mm256_loadu_si256((const void *)tc_poly_place(l, i, at));
    gather(words, pieces);
    absorb(h, words, top, r, r2);
}

VECTOR static void outer_pair(number *h, const tc_poly_layout *l, int64_t at, const factor *r,
                              const factor *r2) {
    __m256i pieces[WIDTH];
    __m512i words[4];
    load_edges(pieces, l, at);
    gather(words, pieces);
    if (at + TC_PAIR_BYTES == l->bytes) {
        words[2] = _mm512_loadu_si512(l->last[0]);
        words[3] = _mm512_loadu_si512(l->last[1]);
    }
    const __m512i top[2] = {top_bit(l, at), top_bit(l, at + 16)};
    absorb(h, words, top, r, r2);
}

/* h modulo 2^130 - 5, plus s modulo 2^128. */
INLINE void finish(const number *h, const __m512i s[2], uint64_t low[WIDTH], uint64_t high[WIDTH]) {
    __m512i x[LIMBS], g[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        x[i] = h->limb[i];
    for (int i = 0; i < LIMBS - 1; i++)
        carry_into(x, i, i + 1);
    carry_around(x);
    /* x is below 2^130 + 5 now, and its limb 0 may be over by 5. g = x + 5 has bit 130 set just
     * when x is not below 2^130 - 5, and its other bits are then the result. */
    for (int i = 0; i < LIMBS; i++)
        g[i] = i ? x[i] : _mm512_add_epi64(x[0], _mm512_set1_epi64(5));
    for (int i = 0; i < LIMBS - 1; i++) {
        carry_into(x, i, i + 1);
        carry_into(g, i, i + 1);
    }
    __mmask8 over = _mm512_test_epi64_mask(g[4], _mm512_set1_epi64(1 << 26));
    for (int i = 0; i < LIMBS; i++)
        x[i] = _mm512_mask_and_epi64(x[i], over, g[i], limb_mask());
    __m512i l = _mm512_or_si512(
        x[0], _mm512_or_si512(_mm512_slli_epi64(x[1], 26), _mm512_slli_epi64(x[2], 52)));
    __m512i u =
        _mm512_or_si512(_mm512_srli_epi64(x[2], 12),
                        _mm512_or_si512(_mm512_slli_epi64(x[3], 14), _mm512_slli_epi64(x[4], 40)));
    l = _mm512_add_epi64(l, s[0]);
    __mmask8 carry = _mm512_cmplt_epu64_mask(l, s[0]);
    u = _mm512_add_epi64(u, s[1]);
    u = _mm512_mask_add_epi64(u, carry, u, _mm512_set1_epi64(1));
    _mm512_storeu_si512(low, l);
    _mm512_storeu_si512(high, u);
}

VECTOR void tc_poly_avx512(const tc_poly_message *messages, size_t count) {
    __m256i keys[WIDTH];
    __m512i words[4], square[LIMBS];
    for (size_t i = 0; i < WIDTH; i++)
        keys[i] = _mm256_loadu_si256((const void *)messages[i < count ? i : 0].key);
    gather(words, keys);
    number r_number = split(_mm512_and_si512(words[0], _mm512_set1_epi64(0x0ffffffc0fffffff)),
                            _mm512_and_si512(words[1], _mm512_set1_epi64(0x0ffffffc0ffffffc)),
                            _mm512_setzero_si512());
    factor r = factor_of(r_number);
    for (int i = 0; i < LIMBS; i++)
        square[i] = _mm512_setzero_si512();
    multiply_add(square, &r_number, &r);
    factor r2 = factor_of(carried(square));

    tc_poly_layout l;
    tc_poly_lay_out(&l, messages, count, WIDTH);
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

    uint64_t tag[2][WIDTH];
    finish(&h, words + 2, tag[0], tag[1]);
    for (size_t i = 0; i < count; i++) {
        memcpy(messages[i].tag, &tag[0][i], 8);
        memcpy(messages[i].tag + 8, &tag[1][i], 8);
    }
}

#endif
