/* What sealing and opening leave in dead stack frames: no one-time key of Poly1305, nor a tag that
 * was right. */
#include "aead.h"
#include "check.h"
#include "reference.h"

enum { PACKETS = 16, LENGTH = 200, DEAD = 32768, SECRET = 32 + TC_TAG_BYTES };

static uint8_t data[PACKETS][LENGTH + TC_TAG_BYTES];
static tc_aead_job jobs[PACKETS];

/* A packet's one-time key (RFC 8439, section 2.6), from its definition. */
static void one_time_key(const uint8_t *key, uint64_t counter, uint8_t out[32]) {
    static const uint8_t ZEROS[32];
    uint8_t iv[16] = {0};
    int size;
    tc_put_le64(iv + 8, counter);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (!ctx || EVP_EncryptInit_ex(ctx, EVP_chacha20(), NULL, key, iv) != 1 ||
        EVP_EncryptUpdate(ctx, out, &size, ZEROS, sizeof ZEROS) != 1)
        abort();
    EVP_CIPHER_CTX_free(ctx);
}

/* r as it is used (RFC 8439, section 2.5). */
static void clamp(uint8_t key[32]) {
    tc_put_le64(key, tc_get_le64(key) & 0x0ffffffc0fffffff);
    tc_put_le64(key + 8, tc_get_le64(key + 8) & 0x0ffffffc0ffffffc);
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
    static uint8_t dead[DEAD], key[32], secrets[PACKETS][SECRET];
    check_fill(key, sizeof key);
    for (size_t i = 0; i < PACKETS; i++) {
        one_time_key(key, i, secrets[i]);
        clamp(secrets[i]);
        uint32_t length = sealing ? LENGTH : LENGTH + TC_TAG_BYTES;
        jobs[i] = (tc_aead_job){
            .key = key, .counter = i, .in = data[i], .out = data[i], .length = length};
        check_fill(data[i], LENGTH);
        uint8_t sealed[LENGTH + TC_TAG_BYTES];
        reference_packet(key, i, data[i], LENGTH, sealed);
        memcpy(secrets[i] + 32, sealed + LENGTH, TC_TAG_BYTES);
        if (!sealing)
            memcpy(data[i], sealed, sizeof sealed);
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
        for (size_t at = 0; at < SECRET; at += 8)
            CHECK(i, !holds(dead, secrets[i] + at), "%s: byte %zu of it is left, sealing %d", name,
                  at, sealing);
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
