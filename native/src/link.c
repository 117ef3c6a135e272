/* Reading and writing links. */
#include "link.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

enum { VNET_BYTES = sizeof(struct virtio_net_hdr) };
_Static_assert(VNET_BYTES == 10, "the framing of TC_LINK_VNET_HDR");

int tc_link_read(const tc_link *link, uint8_t *buffer, tc_unit *unit) {
    uint32_t header = link->flags & TC_LINK_VNET_HDR ? VNET_BYTES : 0;
    uint8_t *packet = buffer + TC_LINK_HEADROOM;
    ssize_t got = read(link->fd, packet - header, header + TC_UNIT_MAX + 1);
    if (got < 0)
        return -errno;
    if (got == 0)
        return -EPIPE;
    if (got <= (ssize_t)header)
        return -EBADMSG;
    if (!header)
        return tc_unit_open(unit, NULL, packet, (uint32_t)got);
    struct virtio_net_hdr vnet;
    memcpy(&vnet, packet - header, sizeof vnet);
    return tc_unit_open(unit, &vnet, packet, (uint32_t)got - header);
}

int tc_link_write(const tc_link *link, const struct virtio_net_hdr *vnet, const uint8_t *packet,
                  uint32_t length) {
    static const struct virtio_net_hdr plain;
    struct iovec parts[2] = {
        {.iov_base = (void *)(vnet ? vnet : &plain), .iov_len = VNET_BYTES},
        {.iov_base = (void *)packet, .iov_len = length},
    };
    ssize_t put = link->flags & TC_LINK_VNET_HDR ? writev(link->fd, parts, 2)
                                                 : write(link->fd, packet, length);
    return put < 0 ? -errno : 0;
}

bool tc_link_is_dead(int error) {
    switch (error < 0 ? -error : error) {
    case EBADF:
    case EBADFD: /* the TUN device is gone, or this queue was detached */
    case EFAULT: /* the same, when it happens during the call */
    case ENODEV:
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
        return true;
    default:
        return false;
    }
}
