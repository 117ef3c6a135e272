/* One packet: ChaCha20 (RFC 8439, section 2.3) a block at a time, its four rows as vectors of 128
 * bits, and Poly1305 (section 2.5) in limbs of 64 bits. */
#include "lone.h"

#if TC_LONE_USABLE

#include <openssl/crypto.h>

enum { BLOCK = 64, POLY_BLOCK = 16 };

/* ---- ChaCha20 ---- */

typedef uint32_t row __attribute__((vector_size(16)));

typedef struct {
    row key[2];
    row last; /* block number, 0, and the packet's counter */
} chacha;

static void chacha_begin(chacha *c, const tc_aead_job *job) {
    memcpy(c->key, job->key, sizeof c->key); /* little-endian, as all that has vector kernels */
    c->last = (row){0, 0, (uint32_t)job->counter, (uint32_t)(job->counter >> 32)};
}

#define ROTATED(v, n) ((v) << (n) | (v) >> (32 - (n)))
#define TURNED(v, n)                                                                               \
    __builtin_shufflevector((v), (v), (n)&3, ((n) + 1) & 3, ((n) + 2) & 3, ((n) + 3) & 3)

/* The next block of the key stream. */
static void chacha_block(chacha *c, row stream[4]) {
    const row first = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    row x0 = first, x1 = c->key[0], x2 = c->key[1], x3 = c->last;
    for (int half = 0; half < 20; half++) {
        x0 += x1;
        x3 ^= x0;
        x3 = ROTATED(x3, 16);
        x2 += x3;
        x1 ^= x2;
        x1 = ROTATED(x1, 12);
        x0 += x1;
        x3 ^= x0;
        x3 = ROTATED(x3, 8);
        x2 += x3;
        x1 ^= x2;
        x1 = ROTATED(x1, 7);
        /* Columns become diagonals, and in the next half columns again. */
        if (half & 1) {
            x1 = TURNED(x1, 3);
            x2 = TURNED(x2, 2);
            x3 = TURNED(x3, 1);
        } else {
            x1 = TURNED(x1, 1);
            x2 = TURNED(x2, 2);
            x3 = TURNED(x3, 3);
        }
    }
    stream[0] = x0 + first;
    stream[1] = x1 + c->key[0];
    stream[2] = x2 + c->key[1];
    stream[3] = x3 + c->last;
    c->last[0]++;
}

static void chacha_crypt(chacha *c, uint8_t *out, const uint8_t *in, uint32_t length) {
    row stream[4], text[4];
    for (uint32_t at = 0; at < length; at += BLOCK) {
        uint32_t part = length - at < BLOCK ? length - at : BLOCK;
        chacha_block(c, stream);
        memcpy(text, in + at, part);
        for (int i = 0; i < 4; i++)
            text[i] ^= stream[i];
        memcpy(out + at, text, part);
    }
    tc_wipe((uint8_t *)stream, sizeof stream);
}

/* ---- Poly1305 ---- */

typedef unsigned __int128 wide;

/* The sum is h0 + h1 * 2^64 + h2 * 2^128, below 2^131 between blocks. */
typedef struct {
    uint64_t r0, r1, h0, h1, h2;
} poly;

static void poly_block(poly *p, uint64_t low, uint64_t high) {
    /* 2^130 is 5, so what leaves r1's product at 2^128 comes back as 5/4 of it: the clamp has made
     * r1 a multiple of four. */
    uint64_t folded = p->r1 + (p->r1 >> 2);
    wide sum = (wide)p->h0 + low;
    uint64_t h0 = (uint64_t)sum;
    sum = (wide)p->h1 + high + (uint64_t)(sum >> 64);
    uint64_t h1 = (uint64_t)sum;
    uint64_t h2 = p->h2 + (uint64_t)(sum >> 64) + 1;
    wide d0 = (wide)h0 * p->r0 + (wide)h1 * folded;
    wide d1 = (wide)h0 * p->r1 + (wide)h1 * p->r0 + (wide)(h2 * folded) + (uint64_t)(d0 >> 64);
    uint64_t d2 = h2 * p->r0 + (uint64_t)(d1 >> 64);
    /* And so does all above 2^130: five times d2 / 4. */
    sum = (wide)(uint64_t)d0 + ((d2 >> 2) + (d2 & ~UINT64_C(3)));
    p->h0 = (uint64_t)sum;
    sum = (wide)(uint64_t)d1 + (uint64_t)(sum >> 64);
    p->h1 = (uint64_t)sum;
    p->h2 = (d2 & 3) + (uint64_t)(sum >> 64);
}

static void poly_add(poly *p, const uint8_t *data, uint32_t length) {
    for (; length >= POLY_BLOCK; data += POLY_BLOCK, length -= POLY_BLOCK)
        poly_block(p, tc_get_le64(data), tc_get_le64(data + 8));
    if (length) {
        uint8_t last[POLY_BLOCK] = {0};
        memcpy(last, data, length);
        poly_block(p, tc_get_le64(last), tc_get_le64(last + 8));
    }
}

/* The tag of a ciphertext by a one-time key (RFC 8439, section 2.8, without associated data). */
static void poly_tag(const uint8_t *key, const uint8_t *data, uint32_t length, uint8_t *tag) {
    poly p = {.r0 = tc_get_le64(key) & UINT64_C(0x0ffffffc0fffffff),
              .r1 = tc_get_le64(key + 8) & UINT64_C(0x0ffffffc0ffffffc)};
    poly_add(&p, data, length);
    poly_block(&p, 0, length);
    /* Less 2^130 - 5 if it is at least that: then adding 5 carries into bit 130. */
    wide sum = (wide)p.h0 + 5;
    uint64_t g0 = (uint64_t)sum;
    sum = (wide)p.h1 + (uint64_t)(sum >> 64);
    uint64_t g1 = (uint64_t)sum;
    uint64_t over = -((p.h2 + (uint64_t)(sum >> 64)) >> 2 & 1);
    sum = (wide)((p.h0 & ~over) | (g0 & over)) + tc_get_le64(key + 16);
    tc_put_le64(tag, (uint64_t)sum);
    sum = (wide)((p.h1 & ~over) | (g1 & over)) + tc_get_le64(key + 24) + (uint64_t)(sum >> 64);
    tc_put_le64(tag + 8, (uint64_t)sum);
    tc_wipe((uint8_t *)&p, sizeof p);
}

/* ---- both ---- */

void tc_lone_seal(const tc_aead_job *job) {
    chacha c;
    row first[4]; /* block 0: half of it is Poly1305's key */
    chacha_begin(&c, job);
    chacha_block(&c, first);
    chacha_crypt(&c, job->out, job->in, job->length);
    poly_tag((const uint8_t *)first, job->out, job->length, job->out + job->length);
    tc_wipe((uint8_t *)first, sizeof first);
    tc_wipe((uint8_t *)&c, sizeof c);
}

bool tc_lone_open(const tc_aead_job *job) {
    if (job->length < TC_TAG_BYTES)
        return false;
    uint32_t body = job->length - TC_TAG_BYTES;
    chacha c;
    row first[4];
    uint8_t tag[TC_TAG_BYTES];
    chacha_begin(&c, job);
    chacha_block(&c, first);
    poly_tag((const uint8_t *)first, job->in, body, tag);
    bool right = CRYPTO_memcmp(tag, job->in + body, sizeof tag) == 0;
    if (right)
        chacha_crypt(&c, job->out, job->in, body);
    else
        memset(job->out, 0, body);
    tc_wipe((uint8_t *)first, sizeof first);
    tc_wipe((uint8_t *)&c, sizeof c);
    return right;
}

#endif
