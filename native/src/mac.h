/* mac1, mac2 and cookies of handshake messages (WireGuard paper, 5.4.4 and 5.4.7): keyed
 * BLAKE2s-128. Checked here before a message may cost Python any time. */
#ifndef TC_MAC_H
#define TC_MAC_H

#include "core.h"

#define TC_MAC_BYTES 16

typedef struct tc_mac tc_mac; /* one a thread: holds the hash contexts */

tc_mac *tc_mac_new(void);
void tc_mac_free(tc_mac *mac);

/* BLAKE2s(label || public_key): label is the eight bytes "mac1----" or "cookie--". */
int tc_mac_key(tc_mac *mac, const char *label, const uint8_t *public_key, uint8_t key[32]);
/* Whether mac1, mac2 at the end of a 148- or 92-byte message is right. Constant time. */
bool tc_mac1_valid(tc_mac *mac, const uint8_t mac1_key[32], const uint8_t *message, size_t length);
bool tc_mac2_valid(tc_mac *mac, const uint8_t secret[32], const tc_endpoint *from,
                   const uint8_t *message, size_t length);
/* cookie = keyed BLAKE2s-128(secret, source address || source port big-endian). */
int tc_cookie(tc_mac *mac, const uint8_t secret[32], const tc_endpoint *from,
              uint8_t cookie[TC_MAC_BYTES]);

#endif
