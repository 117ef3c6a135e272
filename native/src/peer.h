/* Peers: their sessions, endpoint, staged packets and the timestamps that Python's timers read.
 *
 * Locks. Sessions, and whether the peer exists, change only under the engine's exclusive lock.
 * `lock` guards the endpoint and the stage while workers hold the engine's lock shared. Events are
 * guarded by the events' lock. The rest are relaxed atomics that any worker may write. */
#ifndef TC_PEER_H
#define TC_PEER_H

#include <pthread.h>

#include "core.h"
#include "session.h"

/* Nanoseconds that a packet waits for a key at most: three attempts at a handshake. */
#define TC_STAGED_LATEST (15 * TC_SECOND)

typedef struct tc_staged {
    struct tc_staged *next;
    uint64_t since;
    uint32_t length;
    uint8_t packet[];
} tc_staged;

typedef struct tc_peer {
    uint32_t id;
    tc_session *previous, *current, *next;

    pthread_mutex_t lock;
    tc_endpoint endpoint;
    tc_staged *oldest, *newest;
    uint32_t staged;

    uint32_t events;
    struct tc_peer *next_event;

    _Atomic bool handshake_asked; /* TC_EVENT_HANDSHAKE_NEEDED is out, and unanswered */
    _Atomic bool last_minute;     /* the rekey on receive was asked for in this session */
    _Atomic bool idle;            /* TC_EVENT_ACTIVE is due at the next packet */
    _Atomic uint64_t plain_until; /* no UDP_SEGMENT before this time: the path refused it */

    _Atomic uint64_t rx_bytes, tx_bytes, rx_packets, tx_packets;
    _Atomic uint64_t last_sent, last_received, unanswered_since, unacked_since;
} tc_peer;

struct tc_engine;

tc_peer *tc_peer_new(uint32_t id);
/* Wipes its sessions. The caller has taken it out of every table. */
void tc_peer_free(struct tc_engine *engine, tc_peer *peer);

/* Bookkeeping after authenticated packets went out or came in, `bytes` with all overhead; data
 * tells packets from keepalives and handshake messages. */
void tc_peer_sent(tc_peer *peer, uint64_t packets, uint64_t bytes, bool data, uint64_t now);
void tc_peer_received(tc_peer *peer, uint64_t packets, uint64_t bytes, bool data, uint64_t now);
/* Asks Python for a handshake unless it has been asked already. */
void tc_peer_want_handshake(struct tc_engine *engine, tc_peer *peer);
/* Reports the first packet since tc_peer_idle. */
void tc_peer_stir(struct tc_engine *engine, tc_peer *peer);
/* First authenticated packet under the next session: it becomes current. Exclusive lock. */
void tc_peer_confirm(struct tc_engine *engine, tc_peer *peer);

/* Keeps a packet until there is a key. Answers how many were dropped for it, or -ENOMEM. */
int tc_stage_put(tc_peer *peer, const uint8_t *packet, uint32_t length, uint64_t now);
/* The whole stage, oldest first; the caller frees each packet. */
tc_staged *tc_stage_take(tc_peer *peer);
uint32_t tc_stage_drop(tc_peer *peer);

#endif
