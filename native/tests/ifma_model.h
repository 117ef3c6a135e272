/* The two instructions of AVX-512 IFMA by multiplications of 32 bits, many times faster than
 * emulating them: for long runs, and for those under sanitizers. */
#ifndef TC_IFMA_MODEL_H
#define TC_IFMA_MODEL_H

#include <immintrin.h>

#define MODEL __attribute__((target("avx512f"))) static inline __attribute__((always_inline))

/* With 26 bits a digit: a b = low + 2^26 middle + 2^52 high. */
typedef struct {
    __m512i low, middle, high;
} ifma_digits;

MODEL ifma_digits ifma_multiply(__m512i a, __m512i b) {
    const __m512i digit = _mm512_set1_epi64(0x3ffffff);
    __m512i a0 = _mm512_and_si512(a, digit), b0 = _mm512_and_si512(b, digit);
    __m512i a1 = _mm512_and_si512(_mm512_srli_epi64(a, 26), digit);
    __m512i b1 = _mm512_and_si512(_mm512_srli_epi64(b, 26), digit);
    ifma_digits d = {
        .low = _mm512_mul_epu32(a0, b0),
        .middle = _mm512_add_epi64(_mm512_mul_epu32(a0, b1), _mm512_mul_epu32(a1, b0)),
        .high = _mm512_mul_epu32(a1, b1),
    };
    d.middle = _mm512_add_epi64(d.middle, _mm512_srli_epi64(d.low, 26));
    d.low = _mm512_and_si512(d.low, digit);
    return d;
}

MODEL __m512i ifma_model_lower(__m512i sum, __m512i a, __m512i b) {
    ifma_digits d = ifma_multiply(a, b);
    __m512i middle = _mm512_and_si512(d.middle, _mm512_set1_epi64(0x3ffffff));
    return _mm512_add_epi64(sum, _mm512_or_si512(d.low, _mm512_slli_epi64(middle, 26)));
}

MODEL __m512i ifma_model_upper(__m512i sum, __m512i a, __m512i b) {
    ifma_digits d = ifma_multiply(a, b);
    return _mm512_add_epi64(sum, _mm512_add_epi64(d.high, _mm512_srli_epi64(d.middle, 26)));
}

#endif
