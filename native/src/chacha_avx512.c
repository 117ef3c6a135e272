/* ChaCha20 with AVX-512: sixteen blocks at once, one in each 32-bit lane; register i holds word i
 * of all their states. Blocks of different packets go side by side, so short packets fill the lanes
 * too. At the end the 16 x 16 words are transposed, and each block is XORed in one piece. */
#include "aead_kernel.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdalign.h>

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,bmi2")))
#define INLINE VECTOR static inline __attribute__((always_inline))

enum { LANES = 16 };

INLINE void quarter(__m512i x[16], int a, int b, int c, int d) {
    x[a] = _mm512_add_epi32(x[a], x[b]);
    x[d] = _mm512_rol_epi32(_mm512_xor_si512(x[d], x[a]), 16);
    x[c] = _mm512_add_epi32(x[c], x[d]);
    x[b] = _mm512_rol_epi32(_mm512_xor_si512(x[b], x[c]), 12);
    x[a] = _mm512_add_epi32(x[a], x[b]);
    x[d] = _mm512_rol_epi32(_mm512_xor_si512(x[d], x[a]), 8);
    x[c] = _mm512_add_epi32(x[c], x[d]);
    x[b] = _mm512_rol_epi32(_mm512_xor_si512(x[b], x[c]), 7);
}

INLINE void double_round(__m512i x[16]) {
    quarter(x, 0, 4, 8, 12);
    quarter(x, 1, 5, 9, 13);
    quarter(x, 2, 6, 10, 14);
    quarter(x, 3, 7, 11, 15);
    quarter(x, 0, 5, 10, 15);
    quarter(x, 1, 6, 11, 12);
    quarter(x, 2, 7, 8, 13);
    quarter(x, 3, 4, 9, 14);
}

INLINE __m512i word_at(const uint8_t *p) {
    return _mm512_set1_epi32((int)tc_get_le32(p));
}

/* What each lane's block is XORed with, and where to. */
typedef struct {
    uint64_t in[LANES], out[LANES]; /* addresses */
    uint64_t bytes[LANES];          /* at most 64, 0 for a lane of no run */
} lane_table;

INLINE void store_lanes(uint64_t to[LANES], const __m512i from[2]) {
    _mm512_store_si512(to, from[0]);
    _mm512_store_si512(to + 8, from[1]);
}

/* Fills the states and the table. Each run sets all lanes from its first one on, and later runs
 * overwrite theirs: a loop over runs only, whose count is easy to foresee, since branches that are
 * not cost more than this arithmetic. Mostly all runs have one key. */
INLINE void set_up(__m512i x[16], lane_table *table, const tc_chacha_run *runs, size_t count) {
    static const uint32_t SIGMA[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    const __m512i index = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i offset[2] = {_mm512_set_epi64(448, 384, 320, 256, 192, 128, 64, 0),
                               _mm512_set_epi64(960, 896, 832, 768, 704, 640, 576, 512)};
    __m512i in[2], out[2], bytes[2];
    uint32_t lane = 0;
    for (int i = 0; i < 4; i++)
        x[i] = _mm512_set1_epi32((int)SIGMA[i]);
    for (int w = 0; w < 8; w++)
        x[4 + w] = word_at(runs->key + 4 * w);
    for (int w = 0; w < 4; w++)
        x[12 + w] = _mm512_setzero_si512();
    for (int half = 0; half < 2; half++)
        in[half] = out[half] = bytes[half] = _mm512_setzero_si512();
    for (size_t i = 0; i < count; i++) {
        const tc_chacha_run *run = &runs[i];
        uint32_t onwards = 0xffffu << lane;
        uint64_t before = (uint64_t)lane * TC_BLOCK_BYTES;
        if (i && run->key != run[-1].key)
            for (int w = 0; w < 8; w++)
                x[4 + w] =
                    _mm512_mask_mov_epi32(x[4 + w], (__mmask16)onwards, word_at(run->key + 4 * w));
        x[12] = _mm512_mask_add_epi32(x[12], (__mmask16)onwards, index,
                                      _mm512_set1_epi32((int)(run->counters[0] - lane)));
        for (int w = 1; w < 4; w++)
            x[12 + w] =
                _mm512_mask_set1_epi32(x[12 + w], (__mmask16)onwards, (int)run->counters[w]);
        for (int half = 0; half < 2; half++) {
            __mmask8 own = (__mmask8)(onwards >> (8 * half));
            in[half] =
                _mm512_mask_add_epi64(in[half], own, offset[half],
                                      _mm512_set1_epi64((int64_t)((uintptr_t)run->in - before)));
            out[half] =
                _mm512_mask_add_epi64(out[half], own, offset[half],
                                      _mm512_set1_epi64((int64_t)((uintptr_t)run->out - before)));
            bytes[half] = _mm512_mask_sub_epi64(
                bytes[half], own, _mm512_set1_epi64((int64_t)(run->bytes + before)), offset[half]);
        }
        lane += (run->bytes + TC_BLOCK_BYTES - 1) / TC_BLOCK_BYTES;
    }
    for (int half = 0; half < 2; half++) {
        bytes[half] = _mm512_max_epi64(bytes[half], _mm512_setzero_si512());
        bytes[half] = _mm512_min_epi64(bytes[half], _mm512_set1_epi64(TC_BLOCK_BYTES));
    }
    store_lanes(table->in, in);
    store_lanes(table->out, out);
    store_lanes(table->bytes, bytes);
}

INLINE void xor_lane(const lane_table *table, int lane, __m512i stream) {
    __mmask64 mask = _bzhi_u64(~UINT64_C(0), table->bytes[lane]);
    __m512i text = _mm512_maskz_loadu_epi8(mask, (const void *)(uintptr_t)table->in[lane]);
    _mm512_mask_storeu_epi8((void *)(uintptr_t)table->out[lane], mask,
                            _mm512_xor_si512(text, stream));
}

/* Brings the words of each block together: word i of block j to word j of block i. */
INLINE void xor_transposed(const lane_table *table, const __m512i x[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 4) {
        __m512i a = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        __m512i b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]);
        __m512i d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88);
        __m512i b = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88);
        __m512i d = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
        xor_lane(table, i, _mm512_shuffle_i32x4(a, c, 0x88));
        xor_lane(table, 4 + i, _mm512_shuffle_i32x4(b, d, 0x88));
        xor_lane(table, 8 + i, _mm512_shuffle_i32x4(a, c, 0xdd));
        xor_lane(table, 12 + i, _mm512_shuffle_i32x4(b, d, 0xdd));
    }
}

VECTOR void tc_chacha_avx512(const tc_chacha_run *runs, size_t count) {
    alignas(64) lane_table table;
    __m512i x[16], start[16];
    set_up(start, &table, runs, count);
    for (int i = 0; i < 16; i++)
        x[i] = start[i];
    /* Not a loop: kept in registers whole, that is a tenth faster. */
    double_round(x), double_round(x), double_round(x), double_round(x), double_round(x);
    double_round(x), double_round(x), double_round(x), double_round(x), double_round(x);
    for (int i = 0; i < 16; i++)
        x[i] = _mm512_add_epi32(x[i], start[i]);
    xor_transposed(&table, x);
}

#endif
