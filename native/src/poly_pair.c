/* The ends of messages, and what no vector work is left to hide. Secrets are only in the pair,
 * which its owner wipes, and in registers. */
#include "poly_pair.h"

#if defined(__x86_64__)

#define IDLE SIZE_MAX

void tc_poly_pair_init(tc_poly_pair *pair, const tc_poly_message *messages) {
    *pair = (tc_poly_pair){.messages = messages};
    pair->lanes[0].message = pair->lanes[1].message = IDLE;
}

static void begin(tc_poly_pair *pair, tc_poly_lane *lane) {
    const tc_poly_message *m = &pair->messages[pair->next];
    lane->message = pair->next++;
    lane->h = (tc_poly_sum){0};
    lane->r = tc_poly_clamp(m->key);
    lane->at = m->data;
    lane->blocks = m->length / TC_POLY_BLOCK;
}

static void run_both(tc_poly_pair *pair, size_t blocks) {
    tc_poly_lane *first = &pair->lanes[0], *second = &pair->lanes[1];
    tc_poly_sum h1 = first->h, h2 = second->h;
    for (size_t i = 0; i < blocks; i++) {
        tc_poly_block(&h1, &first->r, first->at + i * TC_POLY_BLOCK);
        tc_poly_block(&h2, &second->r, second->at + i * TC_POLY_BLOCK);
    }
    first->h = h1, second->h = h2;
    first->at += blocks * TC_POLY_BLOCK, second->at += blocks * TC_POLY_BLOCK;
    first->blocks -= blocks, second->blocks -= blocks;
}

/* The rest of a message, padded with zeros, read without a copy of so many bytes where that can be:
 * a call of memcpy would take longer than a block. */
static void load_rest(uint64_t words[2], const tc_poly_message *m, uint32_t rest) {
    words[0] = words[1] = 0;
    if (m->length < TC_POLY_BLOCK) {
        memcpy(words, m->data, rest);
        return;
    }
    unsigned __int128 last;
    memcpy(&last, m->data + m->length - TC_POLY_BLOCK, sizeof last);
    last >>= 8 * (TC_POLY_BLOCK - rest);
    memcpy(words, &last, sizeof last);
}

static void finish(const tc_poly_pair *pair, tc_poly_lane *lane) {
    const tc_poly_message *m = &pair->messages[lane->message];
    uint32_t rest = m->length % TC_POLY_BLOCK;
    tc_poly_sum h = lane->h;
    for (; lane->blocks; lane->blocks--, lane->at += TC_POLY_BLOCK)
        tc_poly_block(&h, &lane->r, lane->at);
    if (rest) {
        uint64_t words[2];
        load_rest(words, m, rest);
        tc_poly_block(&h, &lane->r, (const uint8_t *)words);
    }
    tc_poly_block(&h, &lane->r, (const uint8_t *)m->end);
    tc_poly_finish(&h, m->key + 16, m->tag);
    lane->message = IDLE;
}

void tc_poly_pair_refill(tc_poly_pair *pair, size_t blocks) {
    for (int i = 0; i < 2; i++) {
        tc_poly_lane *lane = &pair->lanes[i];
        while (lane->blocks < blocks) {
            if (lane->message != IDLE)
                finish(pair, lane);
            if (pair->next == pair->limit)
                break;
            begin(pair, lane);
        }
    }
}

size_t tc_poly_pair_finished(const tc_poly_pair *pair) {
    size_t first = pair->next;
    for (int i = 0; i < 2; i++)
        if (pair->lanes[i].message < first)
            first = pair->lanes[i].message;
    return first;
}

bool tc_poly_pair_advance(tc_poly_pair *pair) {
    tc_poly_lane *a = &pair->lanes[0], *b = &pair->lanes[1];
    for (int i = 0; i < 2; i++)
        if (pair->lanes[i].message == IDLE && pair->next < pair->limit)
            begin(pair, &pair->lanes[i]);
    if (a->message == IDLE && b->message == IDLE)
        return false;
    bool alone = a->message == IDLE || b->message == IDLE;
    if (!alone)
        run_both(pair, a->blocks < b->blocks ? a->blocks : b->blocks);
    for (int i = 0; i < 2; i++)
        if (pair->lanes[i].message != IDLE && (alone || !pair->lanes[i].blocks))
            finish(pair, &pair->lanes[i]);
    return true;
}

#endif
