/* ChaCha20 with AVX2: eight blocks at once, one in each 32-bit lane, as in chacha_avx512.c. There
 * are no masks here, so a block that is cut short goes through a buffer. The scalar unit makes the
 * tags of two messages meanwhile: see poly.h. */
#include "aead_kernel.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdalign.h>

#define VECTOR __attribute__((target("avx2")))
#define INLINE VECTOR static inline __attribute__((always_inline))

enum { LANES = 8, STEP = 2 /* blocks of each message that a double round takes along */ };

INLINE __m256i rotated_by_bytes(__m256i x, int bytes) {
    const __m256i two = _mm256_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2, 13,
                                        12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2);
    const __m256i one = _mm256_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3, 14,
                                        13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3);
    return _mm256_shuffle_epi8(x, bytes == 2 ? two : one);
}

INLINE __m256i rotated_by_bits(__m256i x, int bits) {
    return _mm256_or_si256(_mm256_slli_epi32(x, bits), _mm256_srli_epi32(x, 32 - bits));
}

INLINE __m256i word_at(const uint8_t *p) {
    return _mm256_set1_epi32((int)tc_get_le32(p));
}

/* Half of a half of a quarter round, on the four columns (turn 0) or diagonals (turn 1) alike:
 * x[to] += x[by], x[mixed] = (x[mixed] ^ x[to]) <<< bits. Macros, since the words stay in registers
 * only where no index is computed. */
#define ONE(to, by, mixed, bits)                                                                   \
    x[to] = _mm256_add_epi32(x[to], x[by]);                                                        \
    x[mixed] = _mm256_xor_si256(x[mixed], x[to]);                                                  \
    x[mixed] =                                                                                     \
        (bits) % 8 ? rotated_by_bits(x[mixed], bits) : rotated_by_bytes(x[mixed], (bits) / 8);
#define B(i, turn) (4 + ((i) + (turn)) % 4)
#define C(i, turn) (8 + ((i) + 2 * (turn)) % 4)
#define D(i, turn) (12 + ((i) + 3 * (turn)) % 4)
#define ABD(turn, bits)                                                                            \
    ONE(0, B(0, turn), D(0, turn), bits)                                                           \
    ONE(1, B(1, turn), D(1, turn), bits)                                                           \
    ONE(2, B(2, turn), D(2, turn), bits)                                                           \
    ONE(3, B(3, turn), D(3, turn), bits)
#define CDB(turn, bits)                                                                            \
    ONE(C(0, turn), D(0, turn), B(0, turn), bits)                                                  \
    ONE(C(1, turn), D(1, turn), B(1, turn), bits)                                                  \
    ONE(C(2, turn), D(2, turn), B(2, turn), bits)                                                  \
    ONE(C(3, turn), D(3, turn), B(3, turn), bits)

/* The processor looks some two hundred instructions ahead. So that it finds work for its vector
 * units and its multiplier at any time, they are mixed that finely: `after` is what comes after
 * each fourth of a double round, with its number. */
#define DOUBLE_ROUND(after)                                                                        \
    ABD(0, 16)                                                                                     \
    after(0) CDB(0, 12) ABD(0, 8) after(1) CDB(0, 7) ABD(1, 16) after(2) CDB(1, 12) ABD(1, 8)      \
        after(3) CDB(1, 7)
#define NOTHING(fourth)
#define AUTHENTICATE(fourth)                                                                       \
    tc_poly_block(&h[(fourth) % 2], &pair->lanes[(fourth) % 2].r,                                  \
                  at[(fourth) % 2] + (fourth) / 2 * TC_POLY_BLOCK);
#define ALL_WORDS(each)                                                                            \
    each(0) each(1) each(2) each(3) each(4) each(5) each(6) each(7) each(8) each(9) each(10)       \
        each(11) each(12) each(13) each(14) each(15)
#define LOAD(i) x[i] = state[i];
#define STORE(i) state[i] = x[i];

/* Both keep the words in registers as long as they run, and in memory in between, where other code
 * may use the registers. */
VECTOR static void rounds(__m256i state[16], size_t count) {
    __m256i x[16];
    ALL_WORDS(LOAD)
    for (size_t n = 0; n < count; n++) {
        DOUBLE_ROUND(NOTHING)
    }
    ALL_WORDS(STORE)
}

VECTOR static void rounds_with_tags(__m256i state[16], size_t count, tc_poly_pair *pair) {
    __m256i x[16];
    tc_poly_sum h[2] = {pair->lanes[0].h, pair->lanes[1].h};
    const uint8_t *at[2] = {pair->lanes[0].at, pair->lanes[1].at};
    ALL_WORDS(LOAD)
    for (size_t n = 0; n < count; n++) {
        DOUBLE_ROUND(AUTHENTICATE)
        at[0] += STEP * TC_POLY_BLOCK;
        at[1] += STEP * TC_POLY_BLOCK;
    }
    ALL_WORDS(STORE)
    for (int i = 0; i < 2; i++) {
        pair->lanes[i].h = h[i];
        pair->lanes[i].at = at[i];
        pair->lanes[i].blocks -= count * STEP;
    }
}

VECTOR static void twenty_rounds(__m256i x[16], const __m256i start[16], tc_poly_pair *pair) {
    for (int i = 0; i < 16; i++)
        x[i] = start[i];
    for (size_t left = 10, count; left; left -= count) {
        size_t steps = tc_poly_pair_steps(pair, STEP);
        count = steps && steps < left ? steps : left;
        if (steps)
            rounds_with_tags(x, count, pair);
        else
            rounds(x, count);
    }
    for (int i = 0; i < 16; i++)
        x[i] = _mm256_add_epi32(x[i], start[i]);
}

/* The words that are not of the nonce or the counter. */
INLINE void set_first_key(__m256i x[16], const uint8_t *key) {
    static const uint32_t SIGMA[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int i = 0; i < 4; i++)
        x[i] = _mm256_set1_epi32((int)SIGMA[i]);
    for (int w = 0; w < 8; w++)
        x[4 + w] = word_at(key + 4 * w);
}

INLINE __m256i lanes_from(uint32_t lane) {
    const __m256i index = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_cmpgt_epi32(index, _mm256_set1_epi32((int)lane - 1));
}

/* Mostly all lanes have one key; otherwise it is set again from where it changes. */
INLINE void set_key_from(__m256i x[16], uint32_t lane, const uint8_t *key) {
    for (int w = 0; w < 8; w++)
        x[4 + w] = _mm256_blendv_epi8(x[4 + w], word_at(key + 4 * w), lanes_from(lane));
}

/* Each run sets all lanes from its first one on, and later runs overwrite theirs. */
INLINE void set_up(__m256i x[16], const tc_chacha_run *runs, size_t count) {
    const __m256i index = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    uint32_t lane = 0;
    set_first_key(x, runs->key);
    for (int w = 0; w < 4; w++)
        x[12 + w] = _mm256_setzero_si256();
    for (size_t i = 0; i < count; i++) {
        const tc_chacha_run *run = &runs[i];
        __m256i first = _mm256_set1_epi32((int)(run->counters[0] - lane));
        if (i && run->key != run[-1].key)
            set_key_from(x, lane, run->key);
        x[12] = _mm256_blendv_epi8(x[12], _mm256_add_epi32(first, index), lanes_from(lane));
        for (int w = 1; w < 4; w++)
            x[12 + w] = _mm256_blendv_epi8(x[12 + w], _mm256_set1_epi32((int)run->counters[w]),
                                           lanes_from(lane));
        lane += (run->bytes + TC_BLOCK_BYTES - 1) / TC_BLOCK_BYTES;
    }
}

/* Eight words of each block side by side: word i of block j to word j of out[i]. */
INLINE void transpose(__m256i out[8], const __m256i x[8]) {
    __m256i t[8];
    for (int i = 0; i < 8; i += 4) {
        __m256i a = _mm256_unpacklo_epi32(x[i], x[i + 1]);
        __m256i b = _mm256_unpackhi_epi32(x[i], x[i + 1]);
        __m256i c = _mm256_unpacklo_epi32(x[i + 2], x[i + 3]);
        __m256i d = _mm256_unpackhi_epi32(x[i + 2], x[i + 3]);
        t[i] = _mm256_unpacklo_epi64(a, c);
        t[i + 1] = _mm256_unpackhi_epi64(a, c);
        t[i + 2] = _mm256_unpacklo_epi64(b, d);
        t[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x20);
        out[4 + i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x31);
    }
}

INLINE void xor_half(uint8_t *out, const uint8_t *in, const uint8_t *stream) {
    _mm256_storeu_si256((void *)out, _mm256_xor_si256(_mm256_loadu_si256((const void *)in),
                                                      _mm256_load_si256((const void *)stream)));
}

INLINE void xor_run(const tc_chacha_run *run, uint8_t stream[][TC_BLOCK_BYTES]) {
    uint32_t at = 0;
    for (; at + TC_BLOCK_BYTES <= run->bytes; at += TC_BLOCK_BYTES, stream++) {
        xor_half(run->out + at, run->in + at, *stream);
        xor_half(run->out + at + 32, run->in + at + 32, *stream + 32);
    }
    if (at < run->bytes) {
        alignas(32) uint8_t rest[TC_BLOCK_BYTES] = {0};
        memcpy(rest, run->in + at, run->bytes - at);
        xor_half(rest, rest, *stream);
        xor_half(rest + 32, rest + 32, *stream + 32);
        memcpy(run->out + at, rest, run->bytes - at);
    }
}

VECTOR void tc_chacha_avx2(const tc_chacha_run *runs, size_t count, tc_poly_pair *pair) {
    alignas(32) uint8_t stream[LANES][TC_BLOCK_BYTES];
    __m256i x[16], start[16], half[8];
    set_up(start, runs, count);
    twenty_rounds(x, start, pair);
    for (int at = 0; at < 2; at++) {
        transpose(half, x + 8 * at);
        for (int i = 0; i < LANES; i++)
            _mm256_store_si256((void *)(stream[i] + 32 * at), half[i]);
    }
    for (size_t i = 0, lane = 0; i < count; i++) {
        xor_run(&runs[i], &stream[lane]);
        lane += (runs[i].bytes + TC_BLOCK_BYTES - 1) / TC_BLOCK_BYTES;
    }
}

VECTOR void tc_keys_avx2(const tc_aead_job *jobs, size_t count, uint8_t keys[][TC_KEY_BYTES],
                         tc_poly_pair *pair) {
    alignas(32) uint32_t counters[2][LANES] = {{0}};
    __m256i x[16], start[16], made[8];
    set_first_key(start, jobs->key);
    for (uint32_t i = 0; i < count; i++) {
        counters[0][i] = (uint32_t)jobs[i].counter;
        counters[1][i] = (uint32_t)(jobs[i].counter >> 32);
        if (i && jobs[i].key != jobs[i - 1].key)
            set_key_from(start, i, jobs[i].key);
    }
    start[12] = start[13] = _mm256_setzero_si256();
    start[14] = _mm256_load_si256((const void *)counters[0]);
    start[15] = _mm256_load_si256((const void *)counters[1]);
    twenty_rounds(x, start, pair);
    transpose(made, x);
    memcpy(keys, made, count * TC_KEY_BYTES);
}

#endif
