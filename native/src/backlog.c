/* A list of copies, made only while a link is full. */
#include "backlog.h"

#include <errno.h>
#include <stdlib.h>

struct tc_waiting {
    tc_waiting *next;
    uint32_t length;
    struct virtio_net_hdr vnet;
    uint8_t packet[];
};

static bool is_full(int error) {
    return error == -EAGAIN || error == -ENOBUFS;
}

static void drop_oldest(tc_backlog *backlog) {
    tc_waiting *oldest = backlog->oldest;
    backlog->oldest = oldest->next;
    if (!backlog->oldest)
        backlog->newest = NULL;
    backlog->bytes -= (uint32_t)sizeof *oldest + oldest->length;
    free(oldest);
}

int tc_backlog_drain(tc_backlog *backlog, const tc_link *link) {
    while (backlog->oldest) {
        const tc_waiting *oldest = backlog->oldest;
        int error = tc_link_write(link, &oldest->vnet, oldest->packet, oldest->length);
        if (is_full(error))
            return -EAGAIN;
        drop_oldest(backlog);
        if (error && tc_link_is_dead(error))
            return error;
    }
    return 0;
}

int tc_backlog_write(tc_backlog *backlog, const tc_link *link, const struct virtio_net_hdr *vnet,
                     const uint8_t *packet, uint32_t length) {
    int error = tc_backlog_drain(backlog, link);
    if (!error)
        error = tc_link_write(link, vnet, packet, length);
    if (!is_full(error))
        return error;
    uint32_t size = (uint32_t)sizeof(tc_waiting) + length;
    tc_waiting *last = size <= TC_BACKLOG_BYTES - backlog->bytes ? malloc(size) : NULL;
    if (!last)
        return -EAGAIN;
    last->next = NULL;
    last->length = length;
    last->vnet = vnet ? *vnet : (struct virtio_net_hdr){0};
    memcpy(last->packet, packet, length);
    if (backlog->newest)
        backlog->newest->next = last;
    else
        backlog->oldest = last;
    backlog->newest = last;
    backlog->bytes += size;
    return 0;
}

void tc_backlog_clear(tc_backlog *backlog) {
    while (backlog->oldest)
        drop_oldest(backlog);
}
