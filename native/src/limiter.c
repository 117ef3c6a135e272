/* A set-associative table: an address hashes to one set of eight buckets and may live in any of
 * them, so a look-up costs at most eight comparisons and nothing is ever moved. A bucket that has
 * refilled says nothing more than an absent one and may be taken over; when all eight are in use
 * by others, the newcomer is refused: under attack the table errs to silence. */
#include "limiter.h"

#include <stdlib.h>

#define WAYS 8
#define SETS (TC_LIMITER_ENTRIES / WAYS)
#define SECOND UINT64_C(1000000000)
#define TOKEN (SECOND / TC_LIMITER_RATE) /* nanoseconds that pay for one message */
#define FULL (TC_LIMITER_BURST * TOKEN)

typedef struct {
    uint64_t address; /* an IPv6 /64, or an IPv4 address with `family` telling them apart */
    uint64_t when;
    uint64_t tokens; /* in nanoseconds */
    uint8_t family;  /* 0: never used */
} bucket;

struct tc_limiter {
    uint64_t seed;
    bucket sets[SETS][WAYS];
};

tc_limiter *tc_limiter_new(uint64_t seed) {
    tc_limiter *limiter = calloc(1, sizeof *limiter);
    if (limiter)
        limiter->seed = seed;
    return limiter;
}

void tc_limiter_free(tc_limiter *limiter) {
    free(limiter);
}

static size_t set_of(const tc_limiter *limiter, uint64_t address, uint8_t family) {
    uint64_t x = (address ^ limiter->seed) + family;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27 ^ limiter->seed) * UINT64_C(0x94d049bb133111eb);
    return (size_t)((x ^ x >> 31) % SETS);
}

static uint64_t refilled(const bucket *b, uint64_t now) {
    uint64_t gained = now > b->when ? now - b->when : 0;
    return gained >= FULL - b->tokens ? FULL : b->tokens + gained;
}

bool tc_limiter_allow(tc_limiter *limiter, const tc_endpoint *from, uint64_t now) {
    uint64_t address = from->family == 4 ? tc_get_be32(from->address)
                                         : (uint64_t)tc_get_be32(from->address) << 32 |
                                               tc_get_be32(from->address + 4);
    bucket *set = limiter->sets[set_of(limiter, address, from->family)];
    bucket *found = NULL;
    for (int i = 0; i < WAYS; i++) {
        bucket *b = &set[i];
        if (b->family == from->family && b->address == address) {
            found = b;
            break;
        }
        if (!found && (!b->family || refilled(b, now) == FULL))
            found = b;
    }
    if (!found)
        return false;
    if (found->family != from->family || found->address != address)
        *found = (bucket){.address = address, .when = now, .tokens = FULL, .family = from->family};
    found->tokens = refilled(found, now);
    if (now > found->when) /* workers read the clock before they get here */
        found->when = now;
    if (found->tokens < TOKEN)
        return false;
    found->tokens -= TOKEN;
    return true;
}
