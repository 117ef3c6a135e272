/* The engine's insides: one page that says what there is and which lock guards it.
 *
 * `lock` is held shared by a worker for one batch, never while it waits, and exclusively by every
 * call that changes anything. Order: engine.lock, then peer.lock or session.replay_lock or
 * handshake_lock, then events.lock. */
#ifndef TC_ENGINE_H
#define TC_ENGINE_H

#include <pthread.h>

#include "allowedips.h"
#include "claims.h"
#include "core.h"
#include "counters.h"
#include "events.h"
#include "limiter.h"
#include "peer.h"
#include "send.h"
#include "session.h"
#include "worker.h"

struct tc_engine {
    pthread_rwlock_t lock;
    tc_options options;
    _Atomic bool running;
    _Atomic uint64_t clock_offset;

    tc_peer **peers; /* by identifier; NULL where there is none */
    uint32_t peer_slots;
    uint32_t peer_next; /* where the search for a free identifier goes on: they are reused late */
    tc_index_table sessions;
    tc_allowedips *allowed;
    tc_vault *vault;
    uint32_t mtu; /* of the links: the bound of padding */
    tc_link port; /* to the userspace stack; worker 0 reads it, all write to it */
    tc_claims claims;

    bool has_identity;
    uint8_t mac1_key[32];
    tc_secret *cookie;           /* its `send` half is the secret of cookies; NULL without one */
    _Atomic uint64_t load_until; /* under load until then */
    pthread_mutex_t handshake_lock;
    tc_limiter *limiter; /* of messages with mac2; guarded by handshake_lock, */
    tc_limiter *askers;  /* as is this one: of those that want a cookie */

    tc_events events;
    tc_counters counters; /* of calls from Python, under the exclusive lock */
    tc_sender sender;     /* the same */
    tc_worker *workers;   /* options.workers of them */
};

tc_peer *tc_engine_peer(const tc_engine *engine, uint32_t id);

/* Both locks in one word each, so that no early return forgets one. */
static inline void tc_lock_exclusive(tc_engine *engine) {
    pthread_rwlock_wrlock(&engine->lock);
}
static inline void tc_lock_shared(tc_engine *engine) {
    pthread_rwlock_rdlock(&engine->lock);
}
/* Exclusive, and the peer: 0, then the caller unlocks; or -ENOENT. */
int tc_lock_peer(tc_engine *engine, uint32_t id, tc_peer **peer);
static inline void tc_unlock(tc_engine *engine) {
    pthread_rwlock_unlock(&engine->lock);
}

#endif
