/* What sealing and opening leave in dead stack frames: no one-time key of Poly1305. */
#include "aead.h"
#include "check.h"
#include "reference.h"

enum { PACKETS = 16, LENGTH = 200, DEAD = 32768 };

static uint8_t data[PACKETS][LENGTH + TC_TAG_BYTES];
static tc_aead_job jobs[PACKETS];

/* The second half of a packet's one-time key (RFC 8439, section 2.6), from its definition. */
static void one_time_key(const uint8_t *key, uint64_t counter, uint8_t out[16]) {
    static const uint8_t ZEROS[32];
    uint8_t iv[16] = {0}, stream[32];
    int size;
    tc_put_le64(iv + 8, counter);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (!ctx || EVP_EncryptInit_ex(ctx, EVP_chacha20(), NULL, key, iv) != 1 ||
        EVP_EncryptUpdate(ctx, stream, &size, ZEROS, sizeof ZEROS) != 1)
        abort();
    memcpy(out, stream + 16, 16);
    EVP_CIPHER_CTX_free(ctx);
}

/* Copies what lies below its caller's frame. */
static __attribute__((noinline)) void take_dead(uint8_t *to) {
    volatile uint8_t dead[DEAD];
    __asm__ volatile("" : : "r"(dead) : "memory");
    for (size_t i = 0; i < DEAD; i++)
        to[i] = dead[i];
}

static bool holds(const uint8_t *memory, const uint8_t *secret) {
    for (size_t i = 0; i + 8 <= DEAD; i++)
        if (memcmp(memory + i, secret, 8) == 0)
            return true;
    return false;
}

/* Writes there: the secret, for a test of the test, or nothing but zeros. */
static __attribute__((noinline)) void leave(const uint8_t *secret) {
    uint8_t dead[DEAD];
    memset(dead, 0, sizeof dead);
    if (secret)
        memcpy(dead + DEAD / 2, secret, 16);
    __asm__ volatile("" : : "r"(dead) : "memory");
}

static void test_kernel(tc_aead *aead, const char *name, bool sealing) {
    static uint8_t dead[DEAD], key[32], secrets[PACKETS][16];
    check_fill(key, sizeof key);
    for (size_t i = 0; i < PACKETS; i++) {
        one_time_key(key, i, secrets[i]);
        uint32_t length = sealing ? LENGTH : LENGTH + TC_TAG_BYTES;
        jobs[i] = (tc_aead_job){
            .key = key, .counter = i, .in = data[i], .out = data[i], .length = length};
        check_fill(data[i], LENGTH);
        if (!sealing)
            reference_packet(key, i, data[i], LENGTH, data[i]);
    }
    leave(secrets[0]);
    take_dead(dead);
    CHECK(-1, holds(dead, secrets[0]), "the test does not see what is left");
    leave(NULL);
    if (sealing)
        tc_aead_seal(aead, jobs, PACKETS);
    else
        CHECK(-1, tc_aead_open(aead, jobs, PACKETS) == PACKETS, "%s: open", name);
    take_dead(dead);
    for (size_t i = 0; i < PACKETS; i++)
        for (size_t half = 0; half < 16; half += 8)
            CHECK(i, !holds(dead, secrets[i] + half), "%s: a key is left, sealing %d", name,
                  sealing);
}

int main(void) {
    static const uint32_t CHOICES[] = {0, TC_NO_IFMA, TC_NO_AVX512};
    for (size_t i = 0; i < ROWS(CHOICES); i++) {
        tc_aead *aead = tc_aead_new(CHOICES[i]);
        const char *name = tc_crypto_name(CHOICES[i]);
        if (!aead)
            abort();
        for (int sealing = 0; strcmp(name, "libcrypto") != 0 && sealing < 2; sealing++)
            test_kernel(aead, name, sealing);
        tc_aead_free(aead);
    }
    return CHECK_DONE();
}
