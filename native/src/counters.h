/* Counters by reason, one set a worker and one for calls from Python. Every packet that the engine
 * drops is in exactly one of them. A set has a single writer at a time (its worker, or whoever
 * holds the engine's exclusive lock), so adding needs no locked instruction; readers sum the sets.
 */
#ifndef TC_COUNTERS_H
#define TC_COUNTERS_H

#include "core.h"

/* tx_: from the link to the outer sockets; rx_: the other way. */
#define TC_COUNTER_LIST(X)                                                                         \
    X(TX_PACKETS, "tx_packets")                     /* data packets sealed and sent */             \
    X(TX_BYTES, "tx_bytes")                         /* outer bytes of these */                     \
    X(TX_UNITS, "tx_units")                         /* reads of the link */                        \
    X(TX_KEEPALIVES, "tx_keepalives")               /* empty data packets sent */                  \
    X(TX_HANDSHAKES, "tx_handshakes")               /* handshake messages sent */                  \
    X(TX_CALLS, "tx_messages")                      /* outer messages: runs or single packets */   \
    X(TX_MALFORMED, "tx_malformed")                 /* not an IP packet, or a bad super-segment */ \
    X(TX_NO_PEER, "tx_no_peer")                     /* no allowed IP holds the destination */      \
    X(TX_NO_ENDPOINT, "tx_no_endpoint")             /* the peer's address is not known */          \
    X(TX_NO_SOCKET, "tx_no_socket")                 /* no socket for the path or the family */     \
    X(TX_STAGED, "tx_staged")                       /* waited for a key; not a drop */             \
    X(TX_STAGE_OVERFLOW, "tx_stage_overflow")       /* oldest staged packet made room */           \
    X(TX_STAGE_DROPPED, "tx_stage_dropped")         /* staged for too long, or the peer went */    \
    X(TX_QUEUED, "tx_queued")                       /* waited for a slow path; not a drop */       \
    X(TX_QUEUE_LATE, "tx_queue_late")               /* there longer than its flow should */        \
    X(TX_QUEUE_MARKED, "tx_queue_marked")           /* told of that congestion; not a drop */      \
    X(TX_QUEUE_OVERFLOW, "tx_queue_overflow")       /* of the longest queue, for more memory */    \
    X(TX_NO_MEMORY, "tx_no_memory")                 /* no memory to stage or to queue */           \
    X(TX_SEAL_FAILED, "tx_seal_failed")             /* the cipher failed */                        \
    X(TX_SEGMENT_REFUSED, "tx_segment_refused")     /* UDP_SEGMENT sends repeated without it */    \
    X(TX_SOURCE_FORGOTTEN, "tx_source_forgotten")   /* local address no longer valid; retried */   \
    X(TX_CONNECTED, "tx_connected")                 /* messages by a connected socket */           \
    X(TX_CONNECTED_REFUSED, "tx_connected_refused") /* refused there; by another one then */       \
    X(TX_OUTER_BUSY, "tx_outer_busy")               /* socket buffer full */                       \
    X(TX_OUTER_UNREACHABLE, "tx_outer_unreachable") /* no route, network or host */                \
    X(TX_OUTER_DENIED, "tx_outer_denied")           /* a firewall said no */                       \
    X(TX_OUTER_TOO_BIG, "tx_outer_too_big")         /* larger than the path takes */               \
    X(TX_OUTER_FAILED, "tx_outer_failed")           /* any other error of a send */                \
    X(TX_ICMP, "tx_icmp")                           /* unreachable messages into the link */       \
    X(TX_ICMP_SUPPRESSED, "tx_icmp_suppressed")     /* not allowed, or over the rate */            \
    X(RX_DATAGRAMS, "rx_datagrams")                 /* all that arrived */                         \
    X(RX_PACKETS, "rx_packets")                     /* data packets given to the link */           \
    X(RX_BYTES, "rx_bytes")                         /* outer bytes of authenticated data */        \
    X(RX_KEEPALIVES, "rx_keepalives")               /* authenticated and empty */                  \
    X(RX_HANDSHAKES, "rx_handshakes")               /* handshake messages given to Python */       \
    X(RX_COALESCED, "rx_coalesced")                 /* packets that left in a super-packet */      \
    X(RX_UNITS, "rx_units")                         /* writes to the link */                       \
    X(RX_TRUNCATED, "rx_truncated")                 /* larger than any buffer */                   \
    X(RX_UNKNOWN_TYPE, "rx_unknown_type")           /* type is not 1 to 4, or too short */         \
    X(RX_BAD_SIZE, "rx_bad_size")                   /* wrong size for its type */                  \
    X(RX_MAC1_INVALID, "rx_mac1_invalid")           /* not for our public key */                   \
    X(RX_COOKIE_WANTED, "rx_cookie_wanted")         /* under load, no valid mac2; to Python */     \
    X(RX_RATE_LIMITED, "rx_rate_limited")           /* under load, over the address's rate */      \
    X(RX_RING_FULL, "rx_ring_full")                 /* Python did not keep up */                   \
    X(RX_UNKNOWN_INDEX, "rx_unknown_index")         /* no session has this receiver index */       \
    X(RX_KEY_EXPIRED, "rx_key_expired")             /* session too old, or counter too large */    \
    X(RX_AUTH_FAILED, "rx_auth_failed")             /* the tag was wrong */                        \
    X(RX_REPLAYED, "rx_replayed")                   /* counter seen, or behind the window */       \
    X(RX_INNER_MALFORMED, "rx_inner_malformed")     /* decrypted, but not an IP packet */          \
    X(RX_SOURCE_REFUSED, "rx_source_refused")       /* inner source is not this peer's */          \
    X(RX_ECN_DROPPED, "rx_ecn_dropped")             /* congestion mark on a not-ECT packet */      \
    X(RX_NO_LINK, "rx_no_link")                     /* no link attached to the worker */           \
    X(RX_LINK_BUSY, "rx_link_busy")                 /* the link's queue is full */                 \
    X(RX_LINK_FAILED, "rx_link_failed")             /* any other error of a write */               \
    X(RX_SOCKET_ERRORS, "rx_socket_errors")         /* failed receive calls */

enum tc_counter {
#define X(symbol, name) TC_COUNT_##symbol,
    TC_COUNTER_LIST(X)
#undef X
        TC_COUNT_ALL
};
_Static_assert(TC_COUNT_ALL <= TC_COUNTERS, "TC_COUNTERS is too small");

typedef struct {
    _Alignas(64) _Atomic uint64_t values[TC_COUNT_ALL];
} tc_counters;

static inline void tc_count(tc_counters *counters, enum tc_counter which, uint64_t n) {
    _Atomic uint64_t *value = &counters->values[which];
    atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

#endif
