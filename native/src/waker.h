/* Which processor the last packet came from: the one on which a program wrote to the tunnel, or on
 * which a datagram came in. The kernel tells neither, so two small BPF programs note it: one runs
 * where the TUN device takes a packet, one where a socket does, and both let all pass. Where the
 * process may not load them nothing is known, and all works as without. */
#ifndef TC_WAKER_H
#define TC_WAKER_H

#include "core.h"

typedef enum { TC_FROM_LINK, TC_FROM_OUTER, TC_WAKERS } tc_waker_kind;

typedef struct {
    uint8_t *notes; /* shared with the programs; NULL where there are none */
    int programs[TC_WAKERS];
} tc_waker;

/* All zero is a valid state too, of one that knows nothing. */
void tc_waker_init(tc_waker *waker);
void tc_waker_free(tc_waker *waker);
/* The programs stay until the device or the socket goes, or for a socket until they are taken away.
 * A socket with one has its checksums verified before its packets are copied, and not meanwhile. */
void tc_waker_watch_link(const tc_waker *waker, int fd);
void tc_waker_watch_outer(const tc_waker *waker, int fd, bool on);
/* The processor, or -1 when it is not known. */
int tc_waker_last(const tc_waker *waker, tc_waker_kind kind);

#endif
