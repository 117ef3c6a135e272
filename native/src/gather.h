/* Letting a batch come together before a worker looks for packets again.
 *
 * Who looks for every packet anew is woken for every packet, and at the cost of that moves few of
 * them. So when round after round was thin, and the next began almost at once, the worker pauses
 * before each round, until a pause brings next to nothing or batches are bulk. Traffic that leaves
 * gaps never waits for that, and bulk, of which a single read is a batch, does not either. A
 * dialogue, whose next packet is the answer to the last, looks like a flood until a pause has
 * brought it nothing; so pauses that did make the next attempt rarer. */
#ifndef TC_GATHER_H
#define TC_GATHER_H

#include "core.h"

typedef struct tc_gather {
    /* Of the round that is going on. */
    uint32_t packets; /* units and datagrams */
    uint32_t bytes;
    bool more;   /* it ended before the link or the socket was empty */
    bool soon;   /* it began soon after the one before */
    bool paused; /* there was a pause before it */
    uint64_t begun;
    /* Over rounds. */
    uint32_t thin_rounds; /* in a row */
    uint32_t patience;    /* how many of them come before a pause */
} tc_gather;

void tc_gather_init(tc_gather *gather);
/* The round is over: pauses if the next should begin with a batch. Answers whether it did. */
bool tc_gather_pause(tc_gather *gather);
/* There was nothing to do after that. */
void tc_gather_in_vain(tc_gather *gather);
/* A round begins. */
void tc_gather_begin(tc_gather *gather, uint64_t now);

#endif
