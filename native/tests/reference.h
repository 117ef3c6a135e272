/* ChaCha20-Poly1305 by libcrypto's plainest calls: what the packet AEAD is held against. */
#ifndef TC_REFERENCE_H
#define TC_REFERENCE_H

#include <openssl/evp.h>
#include <stdlib.h>

#include "core.h"

/* As WireGuard's data messages use it; out has room for the tag. */
static inline void reference_packet(const uint8_t key[32], uint64_t counter, const uint8_t *in,
                                    size_t length, uint8_t *out) {
    static EVP_CIPHER_CTX *ctx; /* still reachable at the end, so not a leak */
    uint8_t nonce[12] = {0};
    int size;
    tc_put_le64(nonce + 4, counter);
    ctx = ctx ? ctx : EVP_CIPHER_CTX_new();
    if (!ctx || EVP_EncryptInit_ex(ctx, EVP_chacha20_poly1305(), NULL, key, nonce) != 1 ||
        (length && EVP_EncryptUpdate(ctx, out, &size, in, (int)length) != 1) ||
        EVP_EncryptFinal_ex(ctx, out + length, &size) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, out + length) != 1)
        abort();
}

#endif
