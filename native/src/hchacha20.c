/* HChaCha20 (draft-irtf-cfrg-xchacha, section 2.2): the key derivation of XChaCha20. WireGuard
 * needs it for cookie replies only, so it is written to be read, not to be fast. */
#include "core.h"

static inline uint32_t rotl(uint32_t v, int n) {
    return v << n | v >> (32 - n);
}

static void quarter(uint32_t *x, int a, int b, int c, int d) {
    x[a] += x[b];
    x[d] = rotl(x[d] ^ x[a], 16);
    x[c] += x[d];
    x[b] = rotl(x[b] ^ x[c], 12);
    x[a] += x[b];
    x[d] = rotl(x[d] ^ x[a], 8);
    x[c] += x[d];
    x[b] = rotl(x[b] ^ x[c], 7);
}

void tc_hchacha20(const uint8_t *key, const uint8_t *nonce, uint8_t *out) {
    uint32_t x[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int i = 0; i < 8; i++)
        x[4 + i] = tc_get_le32(key + 4 * i);
    for (int i = 0; i < 4; i++)
        x[12 + i] = tc_get_le32(nonce + 4 * i);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 4; i++)
            quarter(x, i, 4 + i, 8 + i, 12 + i);
        for (int i = 0; i < 4; i++)
            quarter(x, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
    }
    for (int i = 0; i < 4; i++) {
        tc_put_le32(out + 4 * i, x[i]);
        tc_put_le32(out + 16 + 4 * i, x[12 + i]);
    }
    tc_wipe((uint8_t *)x, sizeof x);
}
