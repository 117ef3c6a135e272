/* mac1, mac2 and cookies against libcrypto used directly, and every bit of a message flipped. */
#include "check.h"
#include "mac.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

static void keyed(const uint8_t *key, size_t key_length, const uint8_t *data, size_t length,
                  uint8_t out[16]) {
    size_t size = 16;
    OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
                               OSSL_PARAM_construct_end()};
    EVP_MAC *algorithm = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(algorithm);
    if (EVP_MAC_init(ctx, key, key_length, parameters) != 1 ||
        EVP_MAC_update(ctx, data, length) != 1 || EVP_MAC_final(ctx, out, &size, 16) != 1)
        abort();
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(algorithm);
}

static void test_key(tc_mac *mac) {
    uint8_t input[40], expected[32], key[32];
    memcpy(input, "mac1----", 8);
    check_fill(input + 8, 32);
    EVP_Digest(input, sizeof input, expected, NULL, EVP_blake2s256(), NULL);
    CHECK(1, tc_mac_key(mac, "mac1----", input + 8, key) == 0, "refused");
    CHECK(2, memcmp(key, expected, 32) == 0, "key of mac1");
    CHECK(3, tc_mac_key(mac, "cookie--", input + 8, key) == 0, "refused");
    CHECK(4, memcmp(key, expected, 32) != 0, "the label does not count");
}

static void test_message(tc_mac *mac, size_t length, tc_endpoint from) {
    uint8_t message[148], mac1_key[32], secret[32], cookie[16], place[18];
    check_fill(message, sizeof message);
    check_fill(mac1_key, 32);
    check_fill(secret, 32);
    check_fill(from.address, from.family == 4 ? 4 : 16);
    size_t size = from.family == 4 ? 4 : 16;
    memcpy(place, from.address, size);
    tc_put_be16(place + size, from.port);
    keyed(secret, 32, place, size + 2, cookie);

    uint8_t got[16];
    CHECK(length, tc_cookie(mac, secret, &from, got) == 0, "refused");
    CHECK(length, memcmp(got, cookie, 16) == 0, "the cookie is not over address and port");
    CHECK(length, !tc_mac1_valid(mac, mac1_key, message, length), "random mac1 is taken");
    CHECK(length, !tc_mac2_valid(mac, secret, &from, message, length), "random mac2 is taken");
    keyed(mac1_key, 32, message, length - 32, message + length - 32);
    keyed(cookie, 16, message, length - 16, message + length - 16);
    CHECK(length, tc_mac1_valid(mac, mac1_key, message, length), "mac1 is refused");
    CHECK(length, tc_mac2_valid(mac, secret, &from, message, length), "mac2 is refused");
    for (size_t bit = 0; bit < length * 8; bit++) {
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
        bool of_mac2 = bit / 8 >= length - 16; /* which mac1 does not cover */
        CHECK(bit, tc_mac1_valid(mac, mac1_key, message, length) == of_mac2, "mac1, flipped");
        CHECK(bit, !tc_mac2_valid(mac, secret, &from, message, length), "mac2, flipped");
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    tc_endpoint other = from;
    other.port ^= 1;
    CHECK(length, !tc_mac2_valid(mac, secret, &other, message, length), "another source port");
    other = from;
    other.address[size - 1] ^= 1;
    CHECK(length, !tc_mac2_valid(mac, secret, &other, message, length), "another source address");
    secret[0] ^= 1;
    CHECK(length, !tc_mac2_valid(mac, secret, &from, message, length), "another secret");
}

static void test_short(tc_mac *mac) {
    uint8_t key[32] = {0};
    tc_endpoint from = {.family = 4};
    for (size_t length = 0; length < 32; length++) {
        uint8_t *message = check_copy(key, length);
        CHECK(length, !tc_mac1_valid(mac, key, message, length), "shorter than its macs");
        CHECK(length, !tc_mac2_valid(mac, key, &from, message, length), "shorter than its macs");
        free(message);
    }
}

int main(void) {
    tc_mac *mac = tc_mac_new();
    if (!mac)
        return 1;
    test_key(mac);
    test_message(mac, 148, (tc_endpoint){.family = 4, .port = 51820});
    test_message(mac, 148, (tc_endpoint){.family = 6, .port = 1});
    test_message(mac, 92, (tc_endpoint){.family = 6, .port = 65535});
    test_short(mac);
    tc_mac_free(mac);
    tc_mac_free(NULL);
    return CHECK_DONE();
}
