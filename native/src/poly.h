/* Poly1305 (RFC 8439, section 2.5) a block at a time in the scalar unit, for x86-64 with BMI2.
 *
 * h = (h + block) r modulo 2^130 - 5, with h in words of 64 bits. r is clamped: bits 64 and 65 are
 * zero, so what is multiplied with its upper word and lies above 2^128 wraps around exactly, as
 * five quarters of that word. Some thirty simple instructions a block and no vector at all: the
 * vector ports stay free for ChaCha20, and wide multiplications do not slow the clock. */
#ifndef TC_POLY_H
#define TC_POLY_H

#include "core.h"

#define TC_POLY_BLOCK 16 /* bytes */

typedef struct {
    uint64_t low, middle;
    uint64_t top; /* at most 4 between blocks */
} tc_poly_sum;

typedef struct {
    uint64_t low, high;
    uint64_t wrapped; /* high * 5 / 4 */
} tc_poly_factor;

typedef uint64_t __attribute__((may_alias, aligned(1))) tc_poly_word;

static inline tc_poly_factor tc_poly_clamp(const uint8_t *key) {
    uint64_t low = tc_get_le64(key) & 0x0ffffffc0fffffff;
    uint64_t high = tc_get_le64(key + 8) & 0x0ffffffc0ffffffc;
    return (tc_poly_factor){low, high, high + (high >> 2)};
}

#if defined(__x86_64__)

/* In assembler, since compilers turn carries over three words into comparisons, which takes half as
 * long again. With h as h0, h1 and h2, d0 = h0 r0 + h1 w, d1 = h0 r1 + h1 r0 + h2 w and d2 = h2 r0,
 * where w is `wrapped`. What d2 has in the end is above 2^128: all but its lowest two bits wrap
 * around as five times a quarter of it. */
static inline __attribute__((always_inline)) void
tc_poly_block(tc_poly_sum *h, const tc_poly_factor *r, const uint8_t *block) {
    const tc_poly_word *words = (const tc_poly_word *)block;
    uint64_t a, b, c, d, e;
    __asm__ volatile("add %[word0], %[h0]\n\t"
                     "adc %[word1], %[h1]\n\t"
                     "adc $1, %[h2]\n\t"
                     "mov %[r1], %%rdx\n\t"
                     "mulx %[h0], %[a], %[b]\n\t" /* d1 = b:a */
                     "mov %[w], %%rdx\n\t"
                     "mulx %[h1], %[c], %[d]\n\t"
                     "imul %[h2], %%rdx\n\t"
                     "imul %[r0], %[h2]\n\t"
                     "add %%rdx, %[a]\n\t"
                     "adc %[h2], %[b]\n\t"
                     "mov %[r0], %%rdx\n\t"
                     "mulx %[h0], %[h0], %[e]\n\t"
                     "mulx %[h1], %[h1], %%rdx\n\t"
                     "add %[c], %[h0]\n\t" /* d0 = e:h0 */
                     "adc %[d], %[e]\n\t"
                     "add %[a], %[h1]\n\t" /* d1 + d2 = rdx:h1 */
                     "adc %[b], %%rdx\n\t"
                     "add %[e], %[h1]\n\t"
                     "adc $0, %%rdx\n\t"
                     "mov %%edx, %k[h2]\n\t"
                     "shr $2, %%rdx\n\t"
                     "and $3, %k[h2]\n\t"
                     "lea (%%rdx,%%rdx,4), %[a]\n\t"
                     "add %[a], %[h0]\n\t"
                     "adc $0, %[h1]\n\t"
                     "adc $0, %[h2]"
                     : [h0] "+r"(h->low), [h1] "+r"(h->middle), [h2] "+r"(h->top), [a] "=&r"(a),
                       [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e)
                     : [word0] "m"(words[0]), [word1] "m"(words[1]), [r0] "m"(r->low),
                       [r1] "m"(r->high), [w] "m"(r->wrapped)
                     : "rdx", "cc");
}

/* h modulo 2^130 - 5, plus s modulo 2^128. h is below twice the modulus. */
static inline void tc_poly_finish(const tc_poly_sum *h, const uint8_t *s, uint8_t *tag) {
    unsigned __int128 sum = (unsigned __int128)h->middle << 64 | h->low;
    unsigned __int128 less = sum + 5; /* the modulus less, but for bits from 130 on */
    uint64_t over = (h->top + (less < sum)) >> 2;
    unsigned __int128 mask = -(unsigned __int128)over;
    sum = (less & mask) | (sum & ~mask);
    sum += (unsigned __int128)tc_get_le64(s + 8) << 64 | tc_get_le64(s);
    tc_put_le64(tag, (uint64_t)sum);
    tc_put_le64(tag + 8, (uint64_t)(sum >> 64));
}

#endif

#endif
