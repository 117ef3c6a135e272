/* From the outer sockets to the link: classify, open, check and deliver, a batch at a time. */
#ifndef TC_RECEIVE_H
#define TC_RECEIVE_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "aead.h"
#include "coalesce.h"
#include "core.h"
#include "counters.h"
#include "gather.h"
#include "mac.h"
#include "outer.h"
#include "session.h"

#define TC_RECEIVE_BYTES (1 << 20)
#define TC_RECEIVE_SLOTS 128
#define TC_RECEIVE_JOBS 1024
#define TC_RECEIVE_CONFIRMS 64
/* With UDP_GRO a slot must hold any super-datagram, without it any sane datagram. */
#define TC_RECEIVE_GRO_STRIDE 65536
#define TC_RECEIVE_STRIDE_MIN 9216

struct tc_engine;

/* A data message of a batch, beside its job. */
typedef struct {
    tc_session *session;
    uint32_t arrival;
} tc_incoming;

typedef struct {
    struct tc_engine *engine;
    tc_counters *counters;
    tc_aead *aead;
    tc_mac *mac;
    uint64_t now;
    uint64_t reported; /* when a socket error was last an event */
    tc_coalescer coalescer;
    tc_coalescer port; /* what the userspace stack has claimed */
    uint8_t *buffer;
    uint32_t count;
    tc_aead_job jobs[TC_RECEIVE_JOBS];
    tc_incoming incoming[TC_RECEIVE_JOBS];
    /* Local indices of sessions that a first packet confirmed; the worker acts on them once it
     * may take the exclusive lock. */
    uint32_t confirms;
    uint32_t confirmed[TC_RECEIVE_CONFIRMS];
    uint32_t stride; /* of the slots below, which are made once for each */
    uint32_t slots;
    uint32_t spent; /* of them, by the call before: they need their lengths again */
    struct mmsghdr headers[TC_RECEIVE_SLOTS];
    struct iovec parts[TC_RECEIVE_SLOTS];
    struct sockaddr_in6 names[TC_RECEIVE_SLOTS];
    tc_arrival arrivals[TC_RECEIVE_SLOTS];
    _Alignas(struct cmsghdr) uint8_t control[TC_RECEIVE_SLOTS][TC_ARRIVAL_CONTROL];
} tc_receiver;

int tc_receiver_init(tc_receiver *receiver, struct tc_engine *engine, const tc_link *link,
                     tc_counters *counters);
void tc_receiver_free(tc_receiver *receiver);
/* One recvmmsg and all that follows; what came is noted. Answers whether more may be there. `local`
 * is as tc_outer_arrival has it. Under the engine's shared lock. */
bool tc_receiver_batch(tc_receiver *receiver, int fd, uint8_t path, const tc_endpoint *local,
                       tc_gather *gather);
/* The same for one datagram that is in memory already (fuzzing); it is decrypted in place. */
void tc_receiver_datagram(tc_receiver *receiver, uint8_t *data, uint32_t length,
                          const tc_arrival *arrival);

/* handshake.c: a message of type 1, 2 or 3. */
void tc_receive_handshake(tc_receiver *receiver, const uint8_t *data, uint32_t length,
                          const tc_endpoint *from);

#endif
