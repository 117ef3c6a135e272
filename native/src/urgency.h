/* Real-time scheduling of workers, where the process may have it.
 *
 * What a packet waits for on a busy machine is not the worker's work but its turn: an ordinary
 * thread gets it some milliseconds late, and all that arrived meanwhile waits in a queue. A worker
 * at the lowest real-time priority gets it at once, and gives it back as soon as it has nothing to
 * do. That it may not starve the machine is its own concern, not only the kernel's throttle's: a
 * worker that has found no end of its work for a tenth of a second goes on as an ordinary thread,
 * until it has waited for work again. */
#ifndef TC_URGENCY_H
#define TC_URGENCY_H

#include <sched.h>

#include "core.h"

typedef struct tc_urgency {
    bool permitted;
    bool real_time;  /* now */
    uint64_t rested; /* nanoseconds: when it last waited for work */
    bool kept;       /* to one processor; */
    cpu_set_t free;  /* before, to all of these */
} tc_urgency;

/* Of the calling thread, which the others are about too. */
void tc_urgency_begin(tc_urgency *urgency, bool wanted, uint64_t now);
/* It waits, or has just waited, for work. */
void tc_urgency_rest(tc_urgency *urgency, uint64_t now);
/* It goes on without a pause. */
void tc_urgency_go_on(tc_urgency *urgency, uint64_t now);
/* It keeps to a processor from now on, if it may run there at all; with -1 it is free again. */
void tc_urgency_keep_to(tc_urgency *urgency, int processor);

#endif
