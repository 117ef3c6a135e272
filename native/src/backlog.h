/* What a full link has not taken yet, in order. A stack in the same process reads its link between
 * other things, and the kernel's buffer for it is small where nobody may enlarge it: without this a
 * moment's absence would be a loss. Bounded; beyond that the link is full. */
#ifndef TC_BACKLOG_H
#define TC_BACKLOG_H

#include <linux/virtio_net.h>

#include "core.h"
#include "link.h"

enum { TC_BACKLOG_BYTES = 4 << 20 };

typedef struct tc_waiting tc_waiting;

typedef struct {
    tc_waiting *oldest, *newest; /* NULL: nothing waits */
    uint32_t bytes;
} tc_backlog;

/* Writes, behind what waits, and lets wait what the link does not take now. Answers as
 * tc_link_write; -EAGAIN where no more may wait. vnet may be NULL. */
int tc_backlog_write(tc_backlog *backlog, const tc_link *link, const struct virtio_net_hdr *vnet,
                     const uint8_t *packet, uint32_t length);
/* Writes what waits, until the link is full (-EAGAIN) or dead. What it refuses otherwise is gone.
 */
int tc_backlog_drain(tc_backlog *backlog, const tc_link *link);
/* Forgets what waits: the link is another one, or none. */
void tc_backlog_clear(tc_backlog *backlog);

#endif
