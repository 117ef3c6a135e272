/* Poly1305 with AVX2: four messages at once, in limbs of 26 bits, as in poly_avx512.c. There are no
 * masks here, so the ends of messages go through a buffer. */
#include "poly_layout.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdalign.h>

#define VECTOR __attribute__((target("avx2")))
#if !defined(__clang__)
#pragma GCC optimize("no-tree-ter")
#endif
#define INLINE VECTOR static inline __attribute__((always_inline))

enum { WIDTH = 4, LIMBS = 5 };

typedef struct {
    __m256i limb[LIMBS];
} number;

/* A factor, and five times its limbs 1 to 4, for what wraps around 2^130 = 5. */
typedef struct {
    __m256i limb[LIMBS];
    __m256i five[LIMBS];
} factor;

INLINE __m256i limb_mask(void) {
    return _mm256_set1_epi64x(0x3ffffff);
}

INLINE number split(__m256i low, __m256i high, __m256i top) {
    const __m256i mask = limb_mask();
    number n;
    n.limb[0] = _mm256_and_si256(low, mask);
    n.limb[1] = _mm256_and_si256(_mm256_srli_epi64(low, 26), mask);
    n.limb[2] = _mm256_and_si256(
        _mm256_or_si256(_mm256_srli_epi64(low, 52), _mm256_slli_epi64(high, 12)), mask);
    n.limb[3] = _mm256_and_si256(_mm256_srli_epi64(high, 14), mask);
    n.limb[4] = _mm256_or_si256(_mm256_srli_epi64(high, 40), top);
    return n;
}

INLINE factor factor_of(number n) {
    factor f;
    for (int i = 0; i < LIMBS; i++) {
        f.limb[i] = n.limb[i];
        f.five[i] = _mm256_add_epi64(n.limb[i], _mm256_slli_epi64(n.limb[i], 2));
    }
    return f;
}

/* Adds a * f to sum, which is not carried. */
INLINE void multiply_add(__m256i sum[LIMBS], const number *a, const factor *f) {
    for (int j = 0; j < LIMBS; j++)
        for (int i = 0; i < LIMBS; i++) {
            __m256i by = j <= i ? f->limb[i - j] : f->five[LIMBS + i - j];
            sum[i] = _mm256_add_epi64(sum[i], _mm256_mul_epu32(a->limb[j], by));
        }
}

INLINE void carry_into(__m256i sum[LIMBS], int from, int to) {
    sum[to] = _mm256_add_epi64(sum[to], _mm256_srli_epi64(sum[from], 26));
    sum[from] = _mm256_and_si256(sum[from], limb_mask());
}

INLINE void carry_around(__m256i sum[LIMBS]) {
    __m256i over = _mm256_srli_epi64(sum[4], 26);
    sum[4] = _mm256_and_si256(sum[4], limb_mask());
    sum[0] = _mm256_add_epi64(sum[0], _mm256_add_epi64(over, _mm256_slli_epi64(over, 2)));
}

/* Bounds as in aead_avx512.c: sums below 2^59 come out as limbs below 2^26 + 2^10. */
INLINE number carried(__m256i sum[LIMBS]) {
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
INLINE void gather(__m256i words[4], const __m256i pieces[WIDTH]) {
    __m256i a = _mm256_unpacklo_epi64(pieces[0], pieces[1]);
    __m256i b = _mm256_unpackhi_epi64(pieces[0], pieces[1]);
    __m256i c = _mm256_unpacklo_epi64(pieces[2], pieces[3]);
    __m256i d = _mm256_unpackhi_epi64(pieces[2], pieces[3]);
    words[0] = _mm256_permute2x128_si256(a, c, 0x20);
    words[1] = _mm256_permute2x128_si256(b, d, 0x20);
    words[2] = _mm256_permute2x128_si256(a, c, 0x31);
    words[3] = _mm256_permute2x128_si256(b, d, 0x31);
}

/* 32 bytes of one message, zeros where it has not begun or has ended. */
INLINE __m256i edge(const tc_poly_layout *l, int i, int64_t at) {
    alignas(32) uint8_t piece[TC_PAIR_BYTES] = {0};
    int64_t from = l->start[i] > at ? l->start[i] - at : 0;
    int64_t to = l->end[i] - at < TC_PAIR_BYTES ? l->end[i] - at : TC_PAIR_BYTES;
    if (from < to)
        memcpy(piece + from, tc_poly_place(l, i, at + from), (size_t)(to - from));
    return _mm256_load_si256((const void *)piece);
}

/* The 2^128 bit of the block at this byte of the sequence, where the message has one there. */
INLINE __m256i top_bit(const tc_poly_layout *l, int64_t at) {
    __m256i start = _mm256_loadu_si256((const void *)l->start);
    return _mm256_andnot_si256(_mm256_cmpgt_epi64(start, _mm256_set1_epi64x(at)),
                               _mm256_set1_epi64x(1 << 24));
}

/* h = (h + m1) r^2 + m2 r, for a pair of blocks. m2 goes first: it need not wait for h. */
INLINE void absorb(number *h, const __m256i words[4], const __m256i top[2], const factor *r,
                   const factor *r2) {
    __m256i sum[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        sum[i] = _mm256_setzero_si256();
    number m = split(words[2], words[3], top[1]);
    multiply_add(sum, &m, r);
    m = split(words[0], words[1], top[0]);
    for (int i = 0; i < LIMBS; i++)
        m.limb[i] = _mm256_add_epi64(m.limb[i], h->limb[i]);
    multiply_add(sum, &m, r2);
    *h = carried(sum);
}

INLINE void inner_pair(number *h, const tc_poly_layout *l, int64_t at, const factor *r,
                       const factor *r2) {
    const __m256i top[2] = {_mm256_set1_epi64x(1 << 24), _mm256_set1_epi64x(1 << 24)};
    __m256i pieces[WIDTH], words[4];
    for (int i = 0; i < WIDTH; i++)
        pieces[i] = _mm256_loadu_si256((const void *)tc_poly_place(l, i, at));
    gather(words, pieces);
    absorb(h, words, top, r, r2);
}

VECTOR static void outer_pair(number *h, const tc_poly_layout *l, int64_t at, const factor *r,
                              const factor *r2) {
    __m256i pieces[WIDTH], words[4];
    for (int i = 0; i < WIDTH; i++)
        pieces[i] = edge(l, i, at);
    gather(words, pieces);
    if (at + TC_PAIR_BYTES == l->bytes) {
        words[2] = _mm256_loadu_si256((const void *)l->last[0]);
        words[3] = _mm256_loadu_si256((const void *)l->last[1]);
    }
    const __m256i top[2] = {top_bit(l, at), top_bit(l, at + 16)};
    absorb(h, words, top, r, r2);
}

/* h modulo 2^130 - 5, plus s modulo 2^128. */
INLINE void finish(const number *h, const __m256i s[2], uint64_t low[WIDTH], uint64_t high[WIDTH]) {
    const __m256i sign = _mm256_set1_epi64x(INT64_MIN);
    __m256i x[LIMBS], g[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        x[i] = h->limb[i];
    for (int i = 0; i < LIMBS - 1; i++)
        carry_into(x, i, i + 1);
    carry_around(x);
    /* x is below 2^130 + 5 now, and its limb 0 may be over by 5. g = x + 5 has bit 130 set just
     * when x is not below 2^130 - 5, and its other bits are then the result. */
    for (int i = 0; i < LIMBS; i++)
        g[i] = i ? x[i] : _mm256_add_epi64(x[0], _mm256_set1_epi64x(5));
    for (int i = 0; i < LIMBS - 1; i++) {
        carry_into(x, i, i + 1);
        carry_into(g, i, i + 1);
    }
    __m256i over = _mm256_cmpgt_epi64(g[4], limb_mask());
    for (int i = 0; i < LIMBS; i++)
        x[i] = _mm256_blendv_epi8(x[i], _mm256_and_si256(g[i], limb_mask()), over);
    __m256i l = _mm256_or_si256(
        x[0], _mm256_or_si256(_mm256_slli_epi64(x[1], 26), _mm256_slli_epi64(x[2], 52)));
    __m256i u =
        _mm256_or_si256(_mm256_srli_epi64(x[2], 12),
                        _mm256_or_si256(_mm256_slli_epi64(x[3], 14), _mm256_slli_epi64(x[4], 40)));
    l = _mm256_add_epi64(l, s[0]);
    /* Unsigned l < s[0]: a carry, which the comparison gives as -1. */
    __m256i carry = _mm256_cmpgt_epi64(_mm256_xor_si256(s[0], sign), _mm256_xor_si256(l, sign));
    u = _mm256_sub_epi64(_mm256_add_epi64(u, s[1]), carry);
    _mm256_storeu_si256((void *)low, l);
    _mm256_storeu_si256((void *)high, u);
}

VECTOR void tc_poly_avx2(const tc_poly_message *messages, size_t count,
                         uint8_t tags[][TC_TAG_BYTES]) {
    __m256i keys[WIDTH], words[4], square[LIMBS];
    for (size_t i = 0; i < WIDTH; i++)
        keys[i] = _mm256_loadu_si256((const void *)messages[i < count ? i : 0].key);
    gather(words, keys);
    number r_number = split(_mm256_and_si256(words[0], _mm256_set1_epi64x(0x0ffffffc0fffffff)),
                            _mm256_and_si256(words[1], _mm256_set1_epi64x(0x0ffffffc0ffffffc)),
                            _mm256_setzero_si256());
    factor r = factor_of(r_number);
    for (int i = 0; i < LIMBS; i++)
        square[i] = _mm256_setzero_si256();
    multiply_add(square, &r_number, &r);
    factor r2 = factor_of(carried(square));

    tc_poly_layout l;
    tc_poly_lay_out(&l, messages, count, WIDTH);
    number h;
    for (int i = 0; i < LIMBS; i++)
        h.limb[i] = _mm256_setzero_si256();
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
        memcpy(tags[i], &tag[0][i], 8);
        memcpy(tags[i] + 8, &tag[1][i], 8);
    }
}

#endif
