/* Poly1305 over several messages in step (RFC 8439, section 2.5), as AVX-512 does it.
 *
 * Two blocks a step, h = (h + m1) r^2 + m2 r, so that one carry serves two blocks. Messages of
 * unequal length are aligned at their ends in one sequence of pairs of blocks: a shorter one begins
 * with blocks that are zero and lack the 2^128 bit, which leave h = 0 as it is. So all lanes run
 * alike, and none needs to be masked in the arithmetic. The block of lengths is the second of the
 * last pair, or comes alone after it, so that the longest message begins with a whole pair. */
#ifndef TC_POLY_LAYOUT_H
#define TC_POLY_LAYOUT_H

#include "aead_kernel.h"

#define TC_POLY_WIDTH 8
#define TC_PAIR_BYTES 32

typedef struct {
    uintptr_t zero[TC_POLY_WIDTH]; /* where the sequence's byte 0 would be in memory */
    int64_t start[TC_POLY_WIDTH];  /* byte of the sequence at which the message begins */
    int64_t end[TC_POLY_WIDTH];    /* and ends, before its padding */
    uint64_t last[2][TC_POLY_WIDTH];
    int64_t inner_start; /* a whole number of pairs: from here all messages have begun, */
    int64_t inner_end;   /* and up to here none has ended */
    int64_t data_end;    /* where the messages' padding ends, and the block of lengths comes */
    int64_t bytes;       /* of the pairs: with it or up to it */
} tc_poly_layout;

static inline int64_t tc_round_up(int64_t bytes, int64_t unit) {
    return (bytes + unit - 1) & -unit;
}

/* Lanes from count on repeat the first message, and their tags are not used. */
static inline void tc_poly_lay_out(tc_poly_layout *l, const tc_poly_message *messages,
                                   size_t count) {
    int64_t longest = 0;
    for (size_t i = 0; i < count; i++)
        longest = messages[i].length > longest ? messages[i].length : longest;
    l->data_end = tc_round_up(longest, 16);
    l->bytes = tc_round_up(l->data_end, TC_PAIR_BYTES);
    l->inner_start = 0;
    l->inner_end = l->bytes;
    for (size_t i = 0; i < TC_POLY_WIDTH; i++) {
        const tc_poly_message *m = &messages[i < count ? i : 0];
        int64_t start = l->data_end - tc_round_up(m->length, 16);
        int64_t end = start + m->length;
        l->zero[i] = (uintptr_t)m->data - (uintptr_t)start;
        l->start[i] = start;
        l->end[i] = end;
        l->last[0][i] = m->end[0];
        l->last[1][i] = m->end[1];
        l->inner_start = start > l->inner_start ? start : l->inner_start;
        l->inner_end = end < l->inner_end ? end : l->inner_end;
    }
    l->inner_start = tc_round_up(l->inner_start, TC_PAIR_BYTES);
    l->inner_end &= -TC_PAIR_BYTES;
    if (l->inner_end < l->inner_start)
        l->inner_end = l->inner_start = l->bytes;
}

/* Whether the block of lengths comes after the pairs. */
static inline bool tc_poly_last_alone(const tc_poly_layout *l) {
    return l->data_end == l->bytes;
}

static inline const uint8_t *tc_poly_place(const tc_poly_layout *l, int lane, int64_t at) {
    return (const uint8_t *)(l->zero[lane] + (uintptr_t)at);
}

#endif
