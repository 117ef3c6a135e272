/* Links: descriptors that give and take one packet or super-segment a call, with struct
 * virtio_net_hdr before it where TC_LINK_VNET_HDR is set. */
#ifndef TC_LINK_H
#define TC_LINK_H

#include <linux/virtio_net.h>

#include "core.h"
#include "segment.h"

/* Room for one read, with the packet aligned behind its virtio_net_hdr. */
#define TC_LINK_HEADROOM 16
#define TC_LINK_READ_BYTES (TC_LINK_HEADROOM + TC_UNIT_MAX + 1)

typedef struct {
    int fd; /* -1: none */
    uint32_t flags;
} tc_link;

/* Reads one unit into a buffer of TC_LINK_READ_BYTES and opens it. 0; -EBADMSG for one to skip;
 * another negative errno from the read, -EPIPE for the end of a socket. */
int tc_link_read(const tc_link *link, uint8_t *buffer, tc_unit *unit);
/* Writes one unit; vnet is NULL for a plain packet. 0 or a negative errno. */
int tc_link_write(const tc_link *link, const struct virtio_net_hdr *vnet, const uint8_t *packet,
                  uint32_t length);
/* Whether an error means that the descriptor will never work again. */
bool tc_link_is_dead(int error);

#endif
