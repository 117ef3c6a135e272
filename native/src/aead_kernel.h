/* What a vector kernel offers: ChaCha20 over many blocks at once, of one packet or of many, and
 * Poly1305 (RFC 8439), either over many messages at once by vectors too, or in the scalar unit
 * while the vector units encipher other packets. Both are general; aead_batch.c makes WireGuard's
 * packets of them, and the tests hold them against every published vector. Only the keys of the
 * packets, which are a good part of the work where packets are short, are made in one piece. */
#ifndef TC_AEAD_KERNEL_H
#define TC_AEAD_KERNEL_H

#include "aead.h"
#include "poly_pair.h"

#define TC_KERNEL_LANES 16 /* the most blocks that any kernel takes at once */
#define TC_BLOCK_BYTES 64
#define TC_KEY_BYTES 32
#define TC_BATCH_GROUP 16 /* packets whose keys are made together */

/* Consecutive blocks under one key and nonce, the last one perhaps cut short: out = in XOR key
 * stream. in may be out. */
typedef struct {
    const uint8_t *key;
    uint32_t counters[4]; /* number of the first block, and the nonce as little-endian words */
    const uint8_t *in;
    uint8_t *out;
    uint32_t bytes; /* at least 1 */
} tc_chacha_run;

/* Time and memory accesses depend on lengths alone, never on keys or data. */
typedef struct {
    const char *name;
    uint32_t lanes; /* blocks a call */
    uint32_t width; /* messages a call of `authenticate` */
    uint32_t least; /* packets at once from which on it is faster than libcrypto */
    /* The packets' Poly1305 keys: the first half of block 0. At most `lanes` packets. */
    void (*make_keys)(const tc_aead_job *jobs, size_t count, uint8_t keys[][TC_KEY_BYTES],
                      tc_poly_pair *pair);
    /* The runs have at most `lanes` blocks together. */
    void (*crypt)(const tc_chacha_run *runs, size_t count, tc_poly_pair *pair);
    /* At most `width` messages. NULL where the other two work on the pair's messages meanwhile. */
    void (*authenticate)(const tc_poly_message *messages, size_t count);
} tc_aead_kernel;

void tc_keys_avx512(const tc_aead_job *jobs, size_t count, uint8_t keys[][TC_KEY_BYTES],
                    tc_poly_pair *pair);
void tc_keys_avx2(const tc_aead_job *jobs, size_t count, uint8_t keys[][TC_KEY_BYTES],
                  tc_poly_pair *pair);
void tc_chacha_avx512(const tc_chacha_run *runs, size_t count, tc_poly_pair *pair);
void tc_chacha_avx2(const tc_chacha_run *runs, size_t count, tc_poly_pair *pair);
void tc_poly_avx512(const tc_poly_message *messages, size_t count);
void tc_poly_ifma(const tc_poly_message *messages, size_t count);

/* NULL where the processor, or the compiler's target, has no such instructions. */
const tc_aead_kernel *tc_kernel_avx512ifma(void);
const tc_aead_kernel *tc_kernel_avx512(void);
const tc_aead_kernel *tc_kernel_avx2(void);

/* Whether the processor multiplies 52 bits. */
bool tc_has_ifma(void);

void tc_batch_seal(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count);
size_t tc_batch_open(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count);

#endif
