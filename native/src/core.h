/* What every file of the core includes first: the public declarations behind an include guard, and
 * the few helpers that have no better home. */
#ifndef TC_CORE_H
#define TC_CORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tunnel_core.h"

static inline uint16_t tc_get_be16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t tc_get_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void tc_put_be16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void tc_put_be32(uint8_t *p, uint32_t v) {
    tc_put_be16(p, (uint16_t)(v >> 16));
    tc_put_be16(p + 2, (uint16_t)v);
}

static inline uint32_t tc_get_le32(const uint8_t *p) {
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

static inline void tc_put_le32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t tc_get_le64(const uint8_t *p) {
    return (uint64_t)tc_get_le32(p + 4) << 32 | tc_get_le32(p);
}

static inline void tc_put_le64(uint8_t *p, uint64_t v) {
    tc_put_le32(p, (uint32_t)v);
    tc_put_le32(p + 4, (uint32_t)(v >> 32));
}

#endif
