/* Peers: bookkeeping of the data path, staging, and the calls that Python makes about a peer. */
#include "peer.h"

#include <errno.h>
#include <stdlib.h>

#include "engine.h"

#define RELAXED memory_order_relaxed

tc_peer *tc_peer_new(uint32_t id) {
    tc_peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return NULL;
    peer->id = id;
    pthread_mutex_init(&peer->lock, NULL);
    return peer;
}

static void retire(tc_engine *engine, tc_session **session) {
    if (*session) {
        tc_index_remove(&engine->sessions, *session);
        tc_session_free(engine->vault, *session);
    }
    *session = NULL;
}

void tc_peer_free(tc_engine *engine, tc_peer *peer) {
    if (!peer)
        return;
    retire(engine, &peer->previous);
    retire(engine, &peer->current);
    retire(engine, &peer->next);
    tc_stage_drop(peer);
    pthread_mutex_destroy(&peer->lock);
    free(peer);
}

/* ---- bookkeeping of the data path ---- */

static void set_once(_Atomic uint64_t *since, uint64_t now) {
    uint64_t never = 0;
    if (!atomic_load_explicit(since, RELAXED))
        atomic_compare_exchange_strong_explicit(since, &never, now, RELAXED, RELAXED);
}

void tc_peer_sent(tc_peer *peer, uint64_t packets, uint64_t bytes, bool data, uint64_t now) {
    atomic_fetch_add_explicit(&peer->tx_packets, packets, RELAXED);
    atomic_fetch_add_explicit(&peer->tx_bytes, bytes, RELAXED);
    atomic_store_explicit(&peer->last_sent, now, RELAXED);
    atomic_store_explicit(&peer->unacked_since, 0, RELAXED);
    if (data)
        set_once(&peer->unanswered_since, now);
}

void tc_peer_received(tc_peer *peer, uint64_t packets, uint64_t bytes, bool data, uint64_t now) {
    atomic_fetch_add_explicit(&peer->rx_packets, packets, RELAXED);
    atomic_fetch_add_explicit(&peer->rx_bytes, bytes, RELAXED);
    atomic_store_explicit(&peer->last_received, now, RELAXED);
    atomic_store_explicit(&peer->unanswered_since, 0, RELAXED);
    if (data)
        set_once(&peer->unacked_since, now);
}

void tc_peer_want_handshake(tc_engine *engine, tc_peer *peer) {
    if (atomic_load_explicit(&peer->handshake_asked, RELAXED) ||
        atomic_exchange_explicit(&peer->handshake_asked, true, RELAXED))
        return;
    tc_events_peer(&engine->events, peer, TC_EVENT_HANDSHAKE_NEEDED);
}

void tc_peer_stir(tc_engine *engine, tc_peer *peer) {
    if (atomic_load_explicit(&peer->idle, RELAXED) &&
        atomic_exchange_explicit(&peer->idle, false, RELAXED))
        tc_events_peer(&engine->events, peer, TC_EVENT_ACTIVE);
}

void tc_peer_confirm(tc_engine *engine, tc_peer *peer) {
    retire(engine, &peer->previous);
    peer->previous = peer->current;
    peer->current = peer->next;
    peer->next = NULL;
    atomic_store_explicit(&peer->handshake_asked, false, RELAXED);
    atomic_store_explicit(&peer->last_minute, false, RELAXED);
    tc_events_peer(&engine->events, peer, TC_EVENT_KEY_CONFIRMED);
}

/* ---- calls ---- */

tc_peer *tc_engine_peer(const tc_engine *engine, uint32_t id) {
    return id < engine->peer_slots ? engine->peers[id] : NULL;
}

static int find_slot(tc_engine *engine, uint32_t *id) {
    for (uint32_t i = 0; i < engine->peer_slots; i++) {
        uint32_t slot = (engine->peer_next + i) % engine->peer_slots;
        if (!engine->peers[slot]) {
            *id = slot;
            return 0;
        }
    }
    uint32_t slots = engine->peer_slots ? engine->peer_slots * 2 : 64;
    tc_peer **peers = slots > 1u << 24 ? NULL : realloc(engine->peers, slots * sizeof *peers);
    if (!peers)
        return -ENOMEM;
    memset(peers + engine->peer_slots, 0, (slots - engine->peer_slots) * sizeof *peers);
    *id = engine->peer_slots;
    engine->peers = peers;
    engine->peer_slots = slots;
    return 0;
}

int tc_peer_add(tc_engine *engine) {
    uint32_t id;
    tc_lock_exclusive(engine);
    int result = find_slot(engine, &id);
    if (!result) {
        engine->peers[id] = tc_peer_new(id);
        engine->peer_next = id + 1;
        result = engine->peers[id] ? (int)id : -ENOMEM;
    }
    tc_unlock(engine);
    return result;
}

int tc_lock_peer(tc_engine *engine, uint32_t id, tc_peer **peer) {
    tc_lock_exclusive(engine);
    *peer = tc_engine_peer(engine, id);
    if (*peer)
        return 0;
    tc_unlock(engine);
    return -ENOENT;
}

int tc_peer_remove(tc_engine *engine, uint32_t id) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    tc_allowedips_remove_peer(engine->allowed, id);
    tc_events_forget(&engine->events, peer);
    tc_count(&engine->counters, TC_COUNT_TX_STAGE_DROPPED, tc_stage_drop(peer));
    engine->peers[id] = NULL;
    tc_peer_free(engine, peer);
    tc_unlock(engine);
    return 0;
}

int tc_peer_info_get(tc_engine *engine, uint32_t id, tc_peer_info *info) {
    tc_lock_shared(engine);
    tc_peer *peer = tc_engine_peer(engine, id);
    if (!peer) {
        tc_unlock(engine);
        return -ENOENT;
    }
    *info = (tc_peer_info){
        .rx_bytes = atomic_load_explicit(&peer->rx_bytes, RELAXED),
        .tx_bytes = atomic_load_explicit(&peer->tx_bytes, RELAXED),
        .rx_packets = atomic_load_explicit(&peer->rx_packets, RELAXED),
        .tx_packets = atomic_load_explicit(&peer->tx_packets, RELAXED),
        .last_sent = atomic_load_explicit(&peer->last_sent, RELAXED),
        .last_received = atomic_load_explicit(&peer->last_received, RELAXED),
        .unanswered_since = atomic_load_explicit(&peer->unanswered_since, RELAXED),
        .unacked_since = atomic_load_explicit(&peer->unacked_since, RELAXED),
        .key_created = peer->current ? peer->current->created : 0,
        .keys = (peer->previous ? TC_KEY_PREVIOUS : 0u) | (peer->current ? TC_KEY_CURRENT : 0u) |
                (peer->next ? TC_KEY_NEXT : 0u),
    };
    pthread_mutex_lock(&peer->lock);
    info->endpoint = peer->endpoint;
    info->staged = peer->staged;
    pthread_mutex_unlock(&peer->lock);
    tc_unlock(engine);
    return 0;
}

int tc_peer_endpoint(tc_engine *engine, uint32_t id, const tc_endpoint *endpoint) {
    static const tc_endpoint none;
    const tc_endpoint *to = endpoint ? endpoint : &none;
    bool known = to->family == 4 || to->family == 6;
    if ((to->family && !known) || to->path >= TC_MAX_PATHS || (known && !to->port))
        return -EINVAL;
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    peer->endpoint = *to;
    atomic_store_explicit(&peer->plain_until, 0, RELAXED);
    atomic_store_explicit(&peer->handshake_asked, false, RELAXED);
    tc_unlock(engine);
    return 0;
}

/* The kernel's rules of sliding (noise.c there): an initiator has proof that its keys work; a
 * responder must wait for the first packet, and meanwhile gives up the oldest session. */
int tc_peer_install(tc_engine *engine, uint32_t id, const tc_keypair *keys) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    tc_session *session = tc_session_new(engine->vault, keys, tc_engine_now(engine));
    error = session ? tc_index_add(&engine->sessions, session) : -ENOMEM;
    if (error) {
        tc_session_free(engine->vault, session);
        tc_unlock(engine);
        return error;
    }
    session->peer = peer;
    retire(engine, &peer->previous);
    if (!session->initiator) {
        retire(engine, &peer->next);
        peer->next = session;
    } else {
        if (peer->next) {
            peer->previous = peer->next;
            peer->next = NULL;
            retire(engine, &peer->current);
        } else {
            peer->previous = peer->current;
        }
        peer->current = session;
        atomic_store_explicit(&peer->last_minute, false, RELAXED);
    }
    atomic_store_explicit(&peer->handshake_asked, false, RELAXED);
    tc_unlock(engine);
    return 0;
}

int tc_peer_erase_keys(tc_engine *engine, uint32_t id, uint32_t which) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    if (which & TC_KEY_PREVIOUS)
        retire(engine, &peer->previous);
    if (which & TC_KEY_CURRENT)
        retire(engine, &peer->current);
    if (which & TC_KEY_NEXT)
        retire(engine, &peer->next);
    atomic_store_explicit(&peer->handshake_asked, false, RELAXED);
    tc_unlock(engine);
    return 0;
}

int tc_peer_flush(tc_engine *engine, uint32_t id) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    engine->sender.batch.now = tc_engine_now(engine);
    error = tc_sender_staged(&engine->sender, peer, true);
    tc_unlock(engine);
    return error;
}

int tc_peer_drop_staged(tc_engine *engine, uint32_t id) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    tc_count(&engine->counters, TC_COUNT_TX_STAGE_DROPPED, tc_stage_drop(peer));
    atomic_store_explicit(&peer->handshake_asked, false, RELAXED);
    tc_unlock(engine);
    return 0;
}

int tc_peer_idle(tc_engine *engine, uint32_t id) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    atomic_store_explicit(&peer->idle, true, RELAXED);
    tc_unlock(engine);
    return 0;
}

int tc_peer_touch(tc_engine *engine, uint32_t id, uint32_t bytes) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    tc_peer_received(peer, 1, bytes, false, tc_engine_now(engine));
    tc_unlock(engine);
    return 0;
}

static int send_message(tc_engine *engine, tc_peer *peer, const tc_endpoint *to,
                        const uint8_t *data, uint32_t length, uint8_t ds) {
    tc_message message = {.peer = peer,
                          .to = *to,
                          .data = (uint8_t *)data,
                          .bytes = length,
                          .count = 1,
                          .segment = (uint16_t)length,
                          .ds = ds};
    uint64_t now = tc_engine_now(engine);
    engine->sender.batch.now = now;
    tc_outer_send(&engine->sender.batch, engine->workers[0].outers, &message, 1);
    if (message.error)
        return -message.error;
    tc_count(&engine->counters, TC_COUNT_TX_HANDSHAKES, 1);
    if (peer)
        tc_peer_sent(peer, 1, length, false, now);
    return 0;
}

int tc_peer_send(tc_engine *engine, uint32_t id, const uint8_t *data, uint32_t length, uint8_t ds) {
    if (!length || length > TC_MESSAGE_MAX)
        return -EINVAL;
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    atomic_store_explicit(&peer->handshake_asked, false, RELAXED);
    tc_endpoint to = peer->endpoint;
    if (!to.family) {
        tc_count(&engine->counters, TC_COUNT_TX_NO_ENDPOINT, 1);
        error = -EDESTADDRREQ;
    } else {
        error = send_message(engine, peer, &to, data, length, ds);
    }
    tc_unlock(engine);
    return error;
}

int tc_send(tc_engine *engine, const tc_endpoint *to, const uint8_t *data, uint32_t length,
            uint8_t ds) {
    if (!length || length > TC_MESSAGE_MAX || (to->family != 4 && to->family != 6) || !to->port ||
        to->path >= TC_MAX_PATHS)
        return -EINVAL;
    tc_lock_exclusive(engine);
    int error = send_message(engine, NULL, to, data, length, ds);
    tc_unlock(engine);
    return error;
}
