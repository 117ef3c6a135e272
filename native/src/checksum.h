/* The Internet checksum (RFC 1071), its pseudo-headers, and copies that add up while they copy.
 * Sums are 64-bit accumulators in native order of 16-bit words; tc_checksum_fold ends them. A sum
 * may go on over several pieces as long as all but the last have an even length: the bytes of a
 * piece after an odd one would be taken in the wrong order. Pieces may start at any address. */
#ifndef TC_CHECKSUM_H
#define TC_CHECKSUM_H

#include "core.h"

uint64_t tc_checksum_add(uint64_t sum, const uint8_t *data, size_t length);
uint64_t tc_checksum_copy(uint64_t sum, uint8_t *to, const uint8_t *from, size_t length);
/* Addresses of 4 or 16 bytes each, protocol number, length of transport header and payload. */
uint64_t tc_checksum_pseudo(int version, const uint8_t *source, const uint8_t *destination,
                            uint8_t protocol, uint32_t length);
/* The 16-bit sum, not complemented, as it lies in memory (write it with memcpy). */
uint16_t tc_checksum_fold(uint64_t sum);

#endif
