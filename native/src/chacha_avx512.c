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

INLINE void twenty_rounds(__m512i x[16], const __m512i start[16]) {
    for (int i = 0; i < 16; i++)
        x[i] = start[i];
    /* Not a loop: kept in registers whole, that is a tenth faster. */
    double_round(x), double_round(x), double_round(x), double_round(x), double_round(x);
    double_round(x), double_round(x), double_round(x), double_round(x), double_round(x);
    for (int i = 0; i < 16; i++)
        x[i] = _mm512_add_epi32(x[i], start[i]);
}

/* The words that are not of the nonce or the counter. */
INLINE void set_first_key(__m512i x[16], const uint8_t *key) {
    static const uint32_t SIGMA[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int i = 0; i < 4; i++)
        x[i] = _mm512_set1_epi32((int)SIGMA[i]);
    for (int w = 0; w < 8; w++)
        x[4 + w] = word_at(key + 4 * w);
}

/* Mostly all lanes have one key; otherwise it is set again from where it changes. */
INLINE void set_key_from(__m512i x[16], uint32_t lane, const uint8_t *key) {
    __mmask16 onwards = (__mmask16)(0xffffu << lane);
    for (int w = 0; w < 8; w++)
        x[4 + w] = _mm512_mask_mov_epi32(x[4 + w], onwards, word_at(key + 4 * w));
}

/* Four words of each block side by side: words of block 4j + i to 128-bit lane j of t[i]. */
INLINE void transpose_four(__m512i t[4], const __m512i x[4]) {
    __m512i a = _mm512_unpacklo_epi32(x[0], x[1]);
    __m512i b = _mm512_unpackhi_epi32(x[0], x[1]);
    __m512i c = _mm512_unpacklo_epi32(x[2], x[3]);
    __m512i d = _mm512_unpackhi_epi32(x[2], x[3]);
    t[0] = _mm512_unpacklo_epi64(a, c);
    t[1] = _mm512_unpackhi_epi64(a, c);
    t[2] = _mm512_unpacklo_epi64(b, d);
    t[3] = _mm512_unpackhi_epi64(b, d);
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
 * not cost more than this arithmetic. */
INLINE void set_up(__m512i x[16], lane_table *table, const tc_chacha_run *runs, size_t count) {
    const __m512i index = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i offset[2] = {_mm512_set_epi64(448, 384, 320, 256, 192, 128, 64, 0),
                               _mm512_set_epi64(960, 896, 832, 768, 704, 640, 576, 512)};
    __m512i in[2], out[2], bytes[2];
    uint32_t lane = 0;
    set_first_key(x, runs->key);
    for (int w = 0; w < 4; w++)
        x[12 + w] = _mm512_setzero_si512();
    for (int half = 0; half < 2; half++)
        in[half] = out[half] = bytes[half] = _mm512_setzero_si512();
    for (size_t i = 0; i < count; i++) {
        const tc_chacha_run *run = &runs[i];
        uint32_t onwards = 0xffffu << lane;
        uint64_t before = (uint64_t)lane * TC_BLOCK_BYTES;
        if (i && run->key != run[-1].key)
            set_key_from(x, lane, run->key);
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

INLINE __m512i words_of_four(const tc_chacha_run *runs) {
    __m512i words = _mm512_castsi128_si512(_mm_loadu_si128((const void *)runs[0].counters));
    words = _mm512_inserti32x4(words, _mm_loadu_si128((const void *)runs[4].counters), 1);
    words = _mm512_inserti32x4(words, _mm_loadu_si128((const void *)runs[8].counters), 2);
    return _mm512_inserti32x4(words, _mm_loadu_si128((const void *)runs[12].counters), 3);
}

/* The same where every run is a single block, as those of short packets are: no table is needed. */
INLINE void set_up_singles(__m512i x[16], const tc_chacha_run *runs) {
    __m512i t[4];
    set_first_key(x, runs->key);
    for (uint32_t i = 1; i < LANES; i++)
        if (runs[i].key != runs[i - 1].key)
            set_key_from(x, i, runs[i].key);
    for (int i = 0; i < 4; i++)
        t[i] = words_of_four(runs + i);
    transpose_four(x + 12, t);
}

INLINE void xor_block(const void *in, void *out, uint64_t bytes, __m512i stream) {
    __mmask64 mask = _bzhi_u64(~UINT64_C(0), bytes);
    __m512i text = _mm512_maskz_loadu_epi8(mask, in);
    _mm512_mask_storeu_epi8(out, mask, _mm512_xor_si512(text, stream));
}

/* What a lane is for says the table, or where there is none, its run. */
INLINE void xor_lane(const lane_table *table, const tc_chacha_run *runs, int lane, __m512i stream) {
    if (table)
        xor_block((const void *)(uintptr_t)table->in[lane], (void *)(uintptr_t)table->out[lane],
                  table->bytes[lane], stream);
    else
        xor_block(runs[lane].in, runs[lane].out, runs[lane].bytes, stream);
}

/* Brings the words of each block together: word i of block j to word j of block i. */
INLINE void xor_transposed(const lane_table *table, const tc_chacha_run *runs,
                           const __m512i x[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 4)
        transpose_four(t + i, x + i);
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88);
        __m512i b = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88);
        __m512i d = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
        xor_lane(table, runs, i, _mm512_shuffle_i32x4(a, c, 0x88));
        xor_lane(table, runs, 4 + i, _mm512_shuffle_i32x4(b, d, 0x88));
        xor_lane(table, runs, 8 + i, _mm512_shuffle_i32x4(a, c, 0xdd));
        xor_lane(table, runs, 12 + i, _mm512_shuffle_i32x4(b, d, 0xdd));
    }
}

VECTOR void tc_chacha_avx512(const tc_chacha_run *runs, size_t count, tc_poly_pair *pair) {
    (void)pair;
    alignas(64) lane_table table;
    __m512i x[16], start[16];
    if (count == LANES)
        set_up_singles(start, runs);
    else
        set_up(start, &table, runs, count);
    twenty_rounds(x, start);
    if (count == LANES)
        xor_transposed(NULL, runs, x);
    else
        xor_transposed(&table, runs, x);
}

VECTOR void tc_keys_avx512(const tc_aead_job *jobs, size_t count, uint8_t keys[][TC_KEY_BYTES],
                           tc_poly_pair *pair) {
    (void)pair;
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    alignas(64) uint64_t counters[LANES] = {0};
    alignas(64) uint8_t made[LANES][TC_KEY_BYTES];
    uint8_t(*to)[TC_KEY_BYTES] = count == LANES ? keys : made;
    __m512i x[16], start[16], t[8];
    set_first_key(start, jobs->key);
    for (uint32_t i = 0; i < count; i++) {
        counters[i] = jobs[i].counter;
        if (i && jobs[i].key != jobs[i - 1].key)
            set_key_from(start, i, jobs[i].key);
    }
    __m512i low = _mm512_load_si512(counters), high = _mm512_load_si512(counters + 8);
    start[12] = start[13] = _mm512_setzero_si512();
    start[14] = _mm512_permutex2var_epi32(low, even, high);
    start[15] = _mm512_permutex2var_epi32(low, odd, high);
    twenty_rounds(x, start);
    transpose_four(t, x);
    transpose_four(t + 4, x + 4);
    for (int i = 0; i < 4; i++) {
        const __m512i first = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
        const __m512i second = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
        __m512i a = _mm512_permutex2var_epi64(t[i], first, t[4 + i]);
        __m512i b = _mm512_permutex2var_epi64(t[i], second, t[4 + i]);
        _mm256_storeu_si256((void *)to[i], _mm512_castsi512_si256(a));
        _mm256_storeu_si256((void *)to[4 + i], _mm512_extracti64x4_epi64(a, 1));
        _mm256_storeu_si256((void *)to[8 + i], _mm512_castsi512_si256(b));
        _mm256_storeu_si256((void *)to[12 + i], _mm512_extracti64x4_epi64(b, 1));
    }
    if (count < LANES)
        memcpy(keys, made, count * TC_KEY_BYTES);
}

#endif
