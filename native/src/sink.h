/* Memory in place of a link: received units for whoever takes the worker's turns, where they would
 * otherwise be written to a descriptor that the same thread reads. */
#ifndef TC_SINK_H
#define TC_SINK_H

#include <linux/virtio_net.h>

#include "core.h"

/* The caller's memory, filled as tc_flow_read fills it with TC_FLOW_VERIFIED. */
typedef struct {
    uint8_t *buffer;
    uint32_t size, used;
    tc_span *spans;
    uint32_t most, count;
} tc_sink;

/* Whether there was room for it. vnet may be NULL. */
bool tc_sink_take(tc_sink *sink, const struct virtio_net_hdr *vnet, const uint8_t *packet,
                  uint32_t length);

#endif
