/* Where a worker with little to do runs: on the processor that its packets come from.
 *
 * A real-time thread stays on the processor where it ran last, wherever its packets come from. With
 * nothing else going on that is the worst place: the other processor is asleep, is woken by an
 * interrupt for each packet, and finds its caches cold. So while packets come one at a time, each
 * after a wait, the worker looks who wakes it, and keeps to that processor once it was the same so
 * many times in a row. Who uses the tunnel from here counts before who sends from outside. As soon
 * as there is a batch to do, or no end to the packets, it may run wherever there is room, and no
 * longer looks. */
#ifndef TC_PLACE_H
#define TC_PLACE_H

#include "waker.h"

typedef enum { TC_PLACE_BUSY, TC_PLACE_LOOKING, TC_PLACE_KEPT } tc_place_state;

typedef struct {
    tc_place_state state;
    int processor;      /* that woke us last, and to keep to when kept; -1 for none */
    uint32_t calm;      /* waits in a row, of all and */
    uint32_t same;      /* for that processor */
    uint32_t unwaited;  /* rounds in a row without a wait */
    uint32_t from_link; /* while above 0, what comes from outside does not count */
} tc_place;

/* What a round was like. */
typedef struct {
    bool waited; /* it began with a wait */
    uint32_t packets;
    uint32_t bytes;
    tc_waker_kind kind; /* what woke us, */
    int processor;      /* and from where, -1 when that is not known */
} tc_place_round;

/* After each round. Answers whether the state is another, or the processor to keep to. */
bool tc_place_note(tc_place *place, const tc_place_round *round);

#endif
