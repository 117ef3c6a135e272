/* Bounded token buckets, one an IPv4 address or IPv6 /64: 20 handshake messages a second with a
 * burst of 5, asked only under load. Not thread-safe: the engine's handshake lock guards it. */
#ifndef TC_LIMITER_H
#define TC_LIMITER_H

#include "core.h"

#define TC_LIMITER_RATE 20
#define TC_LIMITER_BURST 5
#define TC_LIMITER_ENTRIES 8192

typedef struct tc_limiter tc_limiter;

tc_limiter *tc_limiter_new(uint64_t seed); /* seed: random, keys the table's hash */
void tc_limiter_free(tc_limiter *limiter);
bool tc_limiter_allow(tc_limiter *limiter, const tc_endpoint *from, uint64_t now);

#endif
