/* ChaCha20-Poly1305 over batches of packets (RFC 8439), nonce = 4 zero bytes and the counter in
 * little-endian, no associated data, as WireGuard's data messages use it. The batch is the unit of
 * the interface, since vector code works on many packets at once where the processor has it. */
#ifndef TC_AEAD_H
#define TC_AEAD_H

#include "core.h"

#define TC_TAG_BYTES 16

typedef struct tc_aead tc_aead; /* one a thread */

typedef struct {
    const uint8_t *key; /* 32 bytes */
    uint64_t counter;
    const uint8_t *in;
    uint8_t *out;    /* seal: length + TC_TAG_BYTES; open: length - TC_TAG_BYTES; may equal in */
    uint32_t length; /* of in */
    bool ok;         /* set by tc_aead_open: the tag was right; otherwise out is zeros */
} tc_aead_job;

/* flags: TC_NO_IFMA, TC_NO_AVX512 (IFMA among it) and TC_NO_AVX2. NULL when memory or the algorithm
 * is missing. */
tc_aead *tc_aead_new(uint32_t flags);
void tc_aead_free(tc_aead *aead);
int tc_aead_seal(tc_aead *aead, tc_aead_job *jobs, size_t count);    /* 0 or -EIO */
size_t tc_aead_open(tc_aead *aead, tc_aead_job *jobs, size_t count); /* how many were right */

#endif
