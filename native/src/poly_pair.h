/* Makes the tags of many messages, two at a time, in small steps that go between other work: while
 * the vector units encipher, the scalar unit authenticates. Two at a time, since the blocks of one
 * depend on each other. A kernel runs the steps; what is left at a message's ends is done here. */
#ifndef TC_POLY_PAIR_H
#define TC_POLY_PAIR_H

#include "poly.h"

/* Authenticates data, padded with zeros to 16 bytes, and then one block of two little-endian words:
 * the lengths, in the AEAD's construction. */
typedef struct {
    const uint8_t *key; /* 32 bytes: r and s */
    const uint8_t *data;
    uint32_t length;
    uint64_t end[2];
    uint8_t *tag; /* where to put it */
} tc_poly_message;

typedef struct {
    tc_poly_sum h;
    tc_poly_factor r;
    const uint8_t *at;
    size_t blocks; /* whole ones that are left */
    size_t message;
} tc_poly_lane;

typedef struct {
    tc_poly_lane lanes[2];
    const tc_poly_message *messages;
    size_t next;  /* message to begin */
    size_t limit; /* of those that may be begun: the owner raises it */
} tc_poly_pair;

void tc_poly_pair_init(tc_poly_pair *pair, const tc_poly_message *messages);

/* Messages up to here are finished. */
size_t tc_poly_pair_finished(const tc_poly_pair *pair);

/* Works until another message is finished; false where there is none. */
bool tc_poly_pair_advance(tc_poly_pair *pair);

/* Finishes messages with less than `blocks` left, and begins others in their place. */
void tc_poly_pair_refill(tc_poly_pair *pair, size_t blocks);

/* How many steps of so many blocks can be done on both lanes. */
static inline size_t tc_poly_pair_steps(tc_poly_pair *pair, size_t blocks) {
    const tc_poly_lane *a = &pair->lanes[0], *b = &pair->lanes[1];
    if ((a->blocks < blocks || b->blocks < blocks) && pair->next < pair->limit)
        tc_poly_pair_refill(pair, blocks);
    return (a->blocks < b->blocks ? a->blocks : b->blocks) / blocks;
}

#endif
