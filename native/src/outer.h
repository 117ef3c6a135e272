/* The outer UDP sockets: addresses, control messages, sends in batches with every fallback. */
#ifndef TC_OUTER_H
#define TC_OUTER_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "core.h"
#include "counters.h"
#include "events.h"

/* Largest payload of one UDP_SEGMENT send, whatever the family, and most segments in it. */
#define TC_OUTER_BYTES_MAX 65487
#define TC_OUTER_SEGMENTS_MAX 64
/* How long a peer's sends stay plain after the path refused UDP_SEGMENT. */
#define TC_OUTER_PLAIN_TIME (10 * UINT64_C(1000000000))

/* One worker's sockets of a path, -1 where there is none. `connected` is the kernel's shortest way
 * to one endpoint, `to`: bound to its local address and connected to the far one, so that neither
 * what leaves by it nor what it receives needs a look at the routes. Whatever goes elsewhere, to
 * another port or from another address of ours, leaves by the others. */
typedef struct {
    int fd4, fd6, connected;
    tc_endpoint to;
} tc_outer;

#define TC_OUTER_SOCKETS 3
#define TC_OUTER_NONE ((tc_outer){.fd4 = -1, .fd6 = -1, .connected = -1})

/* One message out: `count` datagrams of `segment` bytes (the last may be shorter), one buffer. */
typedef struct {
    struct tc_peer *peer; /* NULL for tc_send */
    tc_endpoint to;
    uint8_t *data;
    uint32_t bytes;
    uint32_t count;
    uint16_t segment;
    uint8_t ds;
    int error;     /* answered: 0 or the last errno, */
    uint32_t lost; /* and the datagrams that were not sent */
} tc_message;

#define TC_OUTER_BATCH 128

/* Scratch of one sender, kept to be filled and not to be zeroed at each batch. */
typedef struct {
    struct mmsghdr headers[TC_OUTER_BATCH];
    struct iovec parts[TC_OUTER_BATCH];
    union {
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } names[TC_OUTER_BATCH];
    _Alignas(struct cmsghdr) uint8_t control[TC_OUTER_BATCH][128];
    tc_counters *counters;
    tc_events *events;
    uint64_t now;
    uint64_t reported[TC_MAX_PATHS]; /* when an error of that path was last an event */
} tc_outer_batch;

/* Sends all, at most TC_OUTER_BATCH; counts and reports errors, and sets each message's. */
void tc_outer_send(tc_outer_batch *batch, const tc_outer *outers, tc_message *messages,
                   uint32_t count);

/* What a receive says of itself beside the data. */
typedef struct {
    tc_endpoint from;
    uint32_t segment; /* size of each datagram but the last, 0 for one datagram */
    uint8_t ds;
} tc_arrival;

#define TC_ARRIVAL_CONTROL 128

/* `local` is what the socket is connected to, which says our address; NULL for any other. */
void tc_outer_arrival(struct msghdr *header, uint8_t path, const tc_endpoint *local,
                      tc_arrival *arrival);

#endif
