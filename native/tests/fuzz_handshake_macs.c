/* The input is a message of any length, then an endpoint: macs that are not right are never taken,
 * right ones always are. */
#include "fuzz.h"
#include "mac.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

static EVP_MAC_CTX *oracle;

static void keyed(const uint8_t *key, size_t key_length, const uint8_t *data, size_t length,
                  uint8_t out[TC_MAC_BYTES]) {
    size_t size = TC_MAC_BYTES;
    MUST(EVP_MAC_init(oracle, key, key_length, NULL) == 1 &&
         EVP_MAC_update(oracle, data, length) == 1 &&
         EVP_MAC_final(oracle, out, &size, TC_MAC_BYTES) == 1);
}

static tc_mac *set_up(void) {
    size_t size = TC_MAC_BYTES;
    OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
                               OSSL_PARAM_construct_end()};
    EVP_MAC *algorithm = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
    oracle = EVP_MAC_CTX_new(algorithm);
    MUST(oracle && EVP_MAC_CTX_set_params(oracle, parameters) == 1);
    EVP_MAC_free(algorithm);
    return tc_mac_new();
}

static void check_message(tc_mac *mac, const uint8_t key[32], const tc_endpoint *from,
                          uint8_t *message, size_t length) {
    uint8_t expected[TC_MAC_BYTES], cookie[TC_MAC_BYTES], place[18];
    if (length < 2 * TC_MAC_BYTES) {
        MUST(!tc_mac1_valid(mac, key, message, length));
        MUST(!tc_mac2_valid(mac, key, from, message, length));
        return;
    }
    uint8_t *mac1 = message + length - 2 * TC_MAC_BYTES, *mac2 = mac1 + TC_MAC_BYTES;
    size_t size = from->family == 4 ? 4 : 16;
    memcpy(place, from->address, size);
    tc_put_be16(place + size, from->port);
    keyed(key, 32, place, size + 2, cookie);
    for (int stamped = 0; stamped < 2; stamped++) {
        keyed(key, 32, message, length - 2 * TC_MAC_BYTES, expected);
        if (stamped)
            memcpy(mac1, expected, TC_MAC_BYTES);
        bool right = memcmp(mac1, expected, TC_MAC_BYTES) == 0;
        MUST(tc_mac1_valid(mac, key, message, length) == right);
        keyed(cookie, sizeof cookie, message, length - TC_MAC_BYTES, expected);
        if (stamped)
            memcpy(mac2, expected, TC_MAC_BYTES);
        right = memcmp(mac2, expected, TC_MAC_BYTES) == 0;
        MUST(tc_mac2_valid(mac, key, from, message, length) == right);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tc_mac *mac;
    if (!mac)
        mac = set_up();
    MUST(mac);
    fuzz_input input = {data, size};
    uint8_t key[32];
    tc_endpoint from = {.family = fuzz_byte(&input) & 1 ? 4 : 6};
    uint8_t port[2];
    fuzz_bytes(&input, port, sizeof port);
    from.port = tc_get_be16(port);
    fuzz_bytes(&input, from.address, from.family == 4 ? 4 : 16);
    fuzz_bytes(&input, key, sizeof key);
    uint8_t *message = malloc(input.size + 1);
    MUST(message);
    memcpy(message, input.data, input.size);
    check_message(mac, key, &from, message, input.size);
    free(message);
    return 0;
}
