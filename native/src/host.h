/* A thread that takes a worker's turns for it.
 *
 * Where a userspace stack is at the other end of the link, a packet of a dialogue crosses two
 * threads, and waking the second costs more than all that is done to the packet. So a worker whose
 * rounds are thin lends its turns to the stack's thread, which then waits for the worker's sockets
 * itself, takes received packets from memory and seals what it sends on the spot. Bulk, of which
 * two threads move more than one, gives the turns back. The worker sleeps meanwhile. */
#ifndef TC_HOST_H
#define TC_HOST_H

#include <pthread.h>

#include "core.h"

struct tc_worker;

typedef struct {
    _Atomic bool offered; /* somebody would take turns */
    uint32_t thin_rounds; /* in a row; the worker's thread's own */
    /* Guards what follows, and is held for a turn that was lent. Taken before engine.lock. */
    pthread_mutex_t lock;
    pthread_cond_t returned;
    bool lent;
    int epoll;      /* what the host waits for: `fd`, and the worker's while it has the turns */
    int fd;         /* the stack's end of the link, lent by the caller */
    uint32_t flags; /* TC_LINK_* */
    bool unread;    /* that end may have something for the stack, */
    bool undrained; /* and the other end something of the stack */
} tc_host;

void tc_host_init(tc_host *host);
void tc_host_free(tc_host *host);
/* Between two rounds of the worker's thread: lends the turns if that is worth it, and waits until
 * they come back or the engine stops. */
void tc_host_lend(struct tc_worker *worker);
/* Ends that wait, after engine.running was cleared. */
void tc_host_wake(tc_host *host);

#endif
