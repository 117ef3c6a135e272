/* Poly1305 with AVX-512 IFMA: eight messages at once, one in each 64-bit lane, by multiplications
 * that take 52 bits of either factor and add the lower or the upper 52 bits of the product.
 *
 * Numbers have limbs of 44, 44 and 42 bits: h = h0 + 2^44 h1 + 2^88 h2. What is multiplied to 2^132
 * or above wraps around as 20 times as much 132 bits lower, since 2^130 = 5. Lower and upper halves
 * have sums of their own; an upper half, in units of 2^52, goes into the next limb, 2^8 times as
 * large.
 *
 * Bounds. A number that was carried, r and its powers among them, has h0 < 2^44, h1 < 2^44 + 2^11
 * and h2 < 2^42. A block has m0, m1 < 2^44 and, with its 2^128 bit, m2 < 2^41. So h + m has limbs
 * below 2^45, 2^46 and 2^43, a factor below 2^44, 2^45 and 2^42, and twenty times its h1 and h2 are
 * below 2^49 and 2^47: none has more than 52 bits. A step adds the products of at most four blocks:
 *   each lower sum   4 * 3 * 2^52                                       < 2^56
 *   upper sum 0      4 * (2^(45+44-52) + 2^(46+47-52) + 2^(43+49-52))   < 2^44
 *   upper sum 1      4 * (2^(45+45-52) + 2^(46+44-52) + 2^(43+47-52))   < 2^42
 *   upper sum 2      4 * (2^(45+42-52) + 2^(46+45-52) + 2^(43+44-52))   < 2^42
 * In carried() the limbs are below 2^57 then. What wraps around, 2^10 times upper sum 2 and the
 * carry of limb 2, is below 2^53, five times of it below 2^55, and what that carries into h1 in the
 * end below 2^11. */
#include "aead_kernel.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC optimize("no-tree-ter")
#endif
#include "poly_lanes.h"

#define TARGET __attribute__((target(TC_AVX512 ",avx512ifma")))
#define INLINE TARGET static inline __attribute__((always_inline))

enum { LIMBS = 3, STEP = 4, LONG_BYTES = 512, EITHER_AND = 0xa8 /* (a | b) & c */ };

typedef struct {
    __m512i limb[LIMBS];
} number;

/* A factor, and twenty times its limbs 1 and 2. */
typedef struct {
    __m512i limb[LIMBS];
    __m512i twenty[LIMBS];
} factor;

typedef struct {
    __m512i lower[LIMBS], upper[LIMBS];
} product;

static const int64_t TOP_BIT = INT64_C(1) << 40;

INLINE __m512i mask44(void) {
    return _mm512_set1_epi64((INT64_C(1) << 44) - 1);
}

INLINE __m512i mask42(void) {
    return _mm512_set1_epi64((INT64_C(1) << 42) - 1);
}

INLINE number split(__m512i low, __m512i high, __m512i top) {
    number n;
    n.limb[0] = _mm512_and_si512(low, mask44());
    n.limb[1] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(low, 44), _mm512_slli_epi64(high, 20),
                                          mask44(), EITHER_AND);
    n.limb[2] = _mm512_or_si512(_mm512_srli_epi64(high, 24), top);
    return n;
}

INLINE factor factor_of(number n) {
    factor f;
    for (int i = 0; i < LIMBS; i++) {
        f.limb[i] = n.limb[i];
        f.twenty[i] =
            _mm512_add_epi64(_mm512_slli_epi64(n.limb[i], 4), _mm512_slli_epi64(n.limb[i], 2));
    }
    return f;
}

INLINE product nothing(void) {
    product p;
    for (int i = 0; i < LIMBS; i++)
        p.lower[i] = p.upper[i] = _mm512_setzero_si512();
    return p;
}

/* Adds a * f. Six sums in turn, so that none waits for itself. */
INLINE void multiply_add(product *p, const number *a, const factor *f) {
    for (int j = 0; j < LIMBS; j++)
        for (int i = 0; i < LIMBS; i++) {
            __m512i by = j <= i ? f->limb[i - j] : f->twenty[LIMBS + i - j];
            p->lower[i] = _mm512_madd52lo_epu64(p->lower[i], a->limb[j], by);
            p->upper[i] = _mm512_madd52hi_epu64(p->upper[i], a->limb[j], by);
        }
}

INLINE number carried(const product *p) {
    number n;
    __m512i sum = p->lower[0], over;
    n.limb[0] = _mm512_and_si512(sum, mask44());
    sum = _mm512_add_epi64(_mm512_add_epi64(p->lower[1], _mm512_slli_epi64(p->upper[0], 8)),
                           _mm512_srli_epi64(sum, 44));
    n.limb[1] = _mm512_and_si512(sum, mask44());
    sum = _mm512_add_epi64(_mm512_add_epi64(p->lower[2], _mm512_slli_epi64(p->upper[1], 8)),
                           _mm512_srli_epi64(sum, 44));
    n.limb[2] = _mm512_and_si512(sum, mask42());
    over = _mm512_add_epi64(_mm512_slli_epi64(p->upper[2], 10), _mm512_srli_epi64(sum, 42));
    sum = _mm512_add_epi64(_mm512_add_epi64(n.limb[0], over), _mm512_slli_epi64(over, 2));
    n.limb[0] = _mm512_and_si512(sum, mask44());
    n.limb[1] = _mm512_add_epi64(n.limb[1], _mm512_srli_epi64(sum, 44));
    return n;
}

INLINE number multiply(const number *a, const factor *f) {
    product p = nothing();
    multiply_add(&p, a, f);
    return carried(&p);
}

/* h = (h + m1) r^n + m2 r^(n-1) + ... + mn r. power[i] is r^(i+1). */
INLINE void absorb(number *h, const __m512i words[], const __m512i top[], int blocks,
                   const factor power[]) {
    product p = nothing();
    for (int i = blocks - 1; i >= 0; i--) { /* the first goes last, since it waits for h */
        number m = split(words[2 * i], words[2 * i + 1], top[i]);
        for (int j = 0; i == 0 && j < LIMBS; j++)
            m.limb[j] = _mm512_add_epi64(m.limb[j], h->limb[j]);
        multiply_add(&p, &m, &power[blocks - 1 - i]);
    }
    *h = carried(&p);
}

/* Two or four blocks, which all messages have. */
INLINE void inner_blocks(number *h, const tc_poly_layout *l, int64_t at, int blocks,
                         const factor power[]) {
    __m512i words[2 * STEP], top[STEP];
    for (int i = 0; i < blocks; i++)
        top[i] = _mm512_set1_epi64(TOP_BIT);
    for (int i = 0; i < blocks; i += 2)
        tc_lanes_inner(words + 2 * i, l, at + 16 * i);
    absorb(h, words, top, blocks, power);
}

TARGET static void outer_pair(number *h, const tc_poly_layout *l, int64_t at,
                              const factor power[2]) {
    const __m512i top[2] = {tc_lanes_top(l, at, TOP_BIT), tc_lanes_top(l, at + 16, TOP_BIT)};
    __m512i words[4];
    tc_lanes_outer(words, l, at);
    absorb(h, words, top, 2, power);
}

/* h modulo 2^130 - 5, plus s modulo 2^128. */
INLINE void finish(const number *h, const __m512i s[2], const tc_poly_message *messages) {
    __m512i x0 = h->limb[0], x1 = h->limb[1], x2 = h->limb[2], over;
    x2 = _mm512_add_epi64(x2, _mm512_srli_epi64(x1, 44));
    x1 = _mm512_and_si512(x1, mask44());
    over = _mm512_srli_epi64(x2, 42);
    x2 = _mm512_and_si512(x2, mask42());
    x0 = _mm512_add_epi64(x0, _mm512_add_epi64(over, _mm512_slli_epi64(over, 2)));
    /* x is below 2^130 + 5 now, which is less than twice the modulus. It is not below the modulus
     * just where x + 5 has bit 130, and x + 5 without that bit is the result then. What is above
     * bit 128 goes by itself. */
    over = _mm512_srli_epi64(_mm512_add_epi64(x0, _mm512_set1_epi64(5)), 44);
    over = _mm512_srli_epi64(_mm512_add_epi64(x1, over), 44);
    over = _mm512_srli_epi64(_mm512_add_epi64(x2, over), 42);
    x0 = _mm512_add_epi64(x0, _mm512_add_epi64(over, _mm512_slli_epi64(over, 2)));
    __m512i high = _mm512_or_si512(_mm512_srli_epi64(x1, 20), _mm512_slli_epi64(x2, 24));
    tc_lanes_add(&x0, &high, _mm512_slli_epi64(x1, 44));
    tc_lanes_tags(x0, high, s, messages);
}

TARGET void tc_poly_ifma(const tc_poly_message *given, size_t count) {
    const __m512i top = _mm512_set1_epi64(TOP_BIT), zero = _mm512_setzero_si512();
    tc_poly_message whole[TC_POLY_WIDTH];
    const tc_poly_message *messages = tc_lanes_fill(whole, given, count);
    tc_poly_layout l;
    __m512i words[4];
    number h = {{zero, zero, zero}};
    factor power[STEP];
    tc_lanes_lay_out(&l, messages);
    tc_lanes_keys(words, messages);
    number r = split(words[0], words[1], zero);
    power[0] = factor_of(r);
    number square = multiply(&r, &power[0]);
    power[1] = factor_of(square);

    int64_t at = 0;
    for (; at < l.inner_start; at += TC_PAIR_BYTES)
        outer_pair(&h, &l, at, power);
    if (l.inner_end - at >= LONG_BYTES) {
        number cube = multiply(&r, &power[1]), fourth = multiply(&square, &power[1]);
        power[2] = factor_of(cube);
        power[3] = factor_of(fourth);
        for (; at + 2 * TC_PAIR_BYTES <= l.inner_end; at += 2 * TC_PAIR_BYTES)
            inner_blocks(&h, &l, at, STEP, power);
    }
    for (; at < l.inner_end; at += TC_PAIR_BYTES)
        inner_blocks(&h, &l, at, 2, power);
    for (; at < l.bytes; at += TC_PAIR_BYTES)
        outer_pair(&h, &l, at, power);
    if (tc_lanes_last_alone(&l))
        absorb(&h, l.last, &top, 1, power);
    finish(&h, words + 2, messages);
}

#endif
