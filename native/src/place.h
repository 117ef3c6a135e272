/* Where a worker with little to do runs: on the processor that its packets come from.
 *
 * A real-time thread stays on the processor where it ran last, wherever its packets come from. With
 * nothing else going on that is the worst place: the other processor is asleep, is woken by an
 * interrupt for each packet, and finds its caches cold. So while packets come one at a time, each
 * after a wait, the worker keeps to a processor, and looks who wakes it. As soon as there is a
 * batch to do, or no end to the packets, it may run wherever there is room, and no longer looks.
 *
 * It follows who uses the tunnel from here, and with care: he sleeps until he is answered, and is
 * woken where nobody runs, so whoever comes to his processor before the answer drives him to
 * another, packet after packet. Right after an answer he runs, is still there with his next packet,
 * and from then on is only interrupted. If that did not last, it takes longer the next time. Who
 * sends from outside is followed last: that may be another worker of this machine, which follows
 * its own user, and two that follow each other find no rest. */
#ifndef TC_PLACE_H
#define TC_PLACE_H

#include "waker.h"

typedef enum { TC_PLACE_FREE, TC_PLACE_KEPT } tc_place_state;

/* All zero is a free one. */
typedef struct {
    tc_place_state state;
    uint32_t calm;      /* while free: waits in a row */
    uint32_t unwaited;  /* rounds in a row without a wait */
    int processor;      /* while kept: where, */
    uint32_t stayed;    /* and wakes from there since it came */
    int waker;          /* the processor that woke us last, -1 when that is not known, */
    uint32_t same;      /* so many times in a row */
    uint32_t patience;  /* of them, after which it follows who is answered */
    uint32_t from_link; /* while above 0, wakes from outside do not count */
} tc_place;

/* What a round was like. */
typedef struct {
    bool waited; /* it began with a wait */
    uint32_t packets;
    uint32_t bytes;
    tc_waker_kind kind; /* what woke us, */
    int processor;      /* from where, -1 when that is not known, */
    int here;           /* and where we ran */
} tc_place_round;

/* After each round. Answers whether the state is another, or the processor to keep to. */
bool tc_place_note(tc_place *place, const tc_place_round *round);

#endif
