/* ChaCha20-Poly1305 by libcrypto's plainest calls: what the packet AEAD is held against. Takes any
 * nonce and associated data, so that published vectors can vouch for it. */
#ifndef TC_REFERENCE_H
#define TC_REFERENCE_H

#include <openssl/evp.h>
#include <stdlib.h>

#include "core.h"

static inline void reference_seal(const uint8_t key[32], const uint8_t nonce[12],
                                  const uint8_t *aad, size_t aad_length, const uint8_t *in,
                                  size_t length, uint8_t *out) {
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int size;
    if (!ctx || EVP_EncryptInit_ex(ctx, EVP_chacha20_poly1305(), NULL, key, nonce) != 1 ||
        (aad_length && EVP_EncryptUpdate(ctx, NULL, &size, aad, (int)aad_length) != 1) ||
        (length && EVP_EncryptUpdate(ctx, out, &size, in, (int)length) != 1) ||
        EVP_EncryptFinal_ex(ctx, out + length, &size) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, out + length) != 1)
        abort();
    EVP_CIPHER_CTX_free(ctx);
}

/* As WireGuard's data messages use it. */
static inline void reference_packet(const uint8_t key[32], uint64_t counter, const uint8_t *in,
                                    size_t length, uint8_t *out) {
    uint8_t nonce[12] = {0};
    tc_put_le64(nonce + 4, counter);
    reference_seal(key, nonce, NULL, 0, in, length, out);
}

#endif
