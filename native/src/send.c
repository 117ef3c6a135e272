/* Outbound. A unit is cut straight into the batch's buffer, each packet behind room for its header
 * and before room for its tag; the whole batch is sealed in place by one call, and consecutive
 * packets of one size for one peer leave as one UDP_SEGMENT message. */
#include "send.h"

#include <errno.h>
#include <stdlib.h>

#include "ecn.h"
#include "engine.h"
#include "packet.h"

enum { MESSAGE_DATA = 4, PADDING = 16, ROOM = TC_DATA_OVERHEAD + PADDING };

int tc_sender_init(tc_sender *sender, tc_engine *engine, const tc_outer *outers, tc_uplink *uplinks,
                   tc_counters *counters) {
    memset(sender, 0, sizeof *sender);
    sender->engine = engine;
    sender->outers = outers;
    sender->uplinks = uplinks;
    sender->counters = counters;
    sender->batch.counters = counters;
    sender->batch.events = &engine->events;
    sender->aead = tc_aead_new(engine->options.flags);
    sender->buffer = aligned_alloc(64, TC_SEND_BYTES);
    return sender->aead && sender->buffer ? 0 : -ENOMEM;
}

void tc_sender_free(tc_sender *sender) {
    if (sender->aead)
        tc_aead_free(sender->aead);
    if (sender->buffer)
        tc_wipe(sender->buffer, TC_SEND_BYTES);
    free(sender->buffer);
}

/* ---- filling the batch ---- */

/* Where the next packet of at most `largest` bytes goes. */
static uint8_t *reserve(tc_sender *sender, uint32_t largest) {
    if (sender->count == TC_SEND_PACKETS || sender->used + largest + ROOM > TC_SEND_BYTES)
        tc_sender_flush(sender);
    return sender->buffer + sender->used + TC_DATA_HEADER;
}

static uint32_t padded(uint32_t length, uint32_t mtu) {
    uint32_t full = (length + PADDING - 1) & ~(uint32_t)(PADDING - 1);
    if (mtu && full > mtu)
        full = mtu;
    return full > length ? full : length;
}

/* Makes the packet that lies where reserve() said a part of the batch. */
static void commit(tc_sender *sender, tc_session *session, uint64_t counter, uint32_t length,
                   uint8_t ecn) {
    uint32_t padding = padded(length, sender->engine->mtu);
    uint8_t *header = sender->buffer + sender->used;
    uint8_t *packet = header + TC_DATA_HEADER;
    memset(packet + length, 0, padding - length);
    tc_put_le32(header, MESSAGE_DATA);
    tc_put_le32(header + 4, session->remote_index);
    tc_put_le64(header + 8, counter);
    sender->jobs[sender->count] = (tc_aead_job){.key = session->keys->send,
                                                .counter = counter,
                                                .in = packet,
                                                .out = packet,
                                                .length = padding};
    sender->packets[sender->count++] = (tc_outgoing){.peer = session->peer,
                                                     .offset = sender->used,
                                                     .length = padding + TC_DATA_OVERHEAD,
                                                     .ecn = ecn,
                                                     .data = length > 0};
    sender->used += padding + TC_DATA_OVERHEAD;
}

/* The current session if `count` more packets may leave under it. */
static tc_session *usable(const tc_peer *peer, uint32_t count, uint64_t now, uint64_t *counter) {
    tc_session *session = peer->current;
    if (!session || tc_session_expired(session, now) || !tc_session_take(session, count, counter))
        return NULL;
    return session;
}

/* Asks for a new session in time, so that this one need not run out. */
static void keep_fresh(tc_engine *engine, const tc_session *session, uint64_t now) {
    uint64_t sent = atomic_load_explicit(&session->sent, memory_order_relaxed);
    if (sent > TC_REKEY_AFTER_MESSAGES ||
        (session->initiator && now - session->created >= TC_REKEY_AFTER_TIME))
        tc_peer_want_handshake(engine, session->peer);
}

static void stage(tc_sender *sender, tc_peer *peer, tc_unit *unit) {
    uint8_t *scratch = reserve(sender, tc_unit_largest(unit));
    for (uint32_t length; (length = tc_unit_next(unit, scratch)) > 0;) {
        int displaced = tc_stage_put(peer, scratch, length, sender->batch.now);
        if (displaced < 0) {
            tc_count(sender->counters, TC_COUNT_TX_NO_MEMORY, 1);
            continue;
        }
        tc_count(sender->counters, TC_COUNT_TX_STAGED, 1);
        tc_count(sender->counters, TC_COUNT_TX_STAGE_OVERFLOW, (uint64_t)displaced);
    }
    tc_peer_want_handshake(sender->engine, peer);
}

/* The path to the peer, -1 where its address is not known. */
static int path_of(tc_peer *peer) {
    pthread_mutex_lock(&peer->lock);
    int path = peer->endpoint.family ? peer->endpoint.path : -1;
    pthread_mutex_unlock(&peer->lock);
    return path;
}

/* Whether what goes by that path has to wait for its turn. */
static bool waits(const tc_sender *sender, int path) {
    return sender->uplinks && !sender->draining && tc_uplink_holds(&sender->uplinks[path]);
}

static void queue(tc_sender *sender, int path, tc_unit *unit) {
    uint8_t *scratch = reserve(sender, tc_unit_largest(unit));
    for (uint32_t length; (length = tc_unit_next(unit, scratch)) > 0;)
        tc_uplink_put(&sender->uplinks[path], scratch, length, sender->batch.now, sender->counters);
}

bool tc_sender_unit(tc_sender *sender, tc_unit *unit) {
    tc_engine *engine = sender->engine;
    const uint8_t *packet = unit->packet;
    uint32_t id = packet[0] >> 4 == 4 ? tc_allowedips_find4(engine->allowed, packet + 16)
                                      : tc_allowedips_find6(engine->allowed, packet + 24);
    tc_peer *peer = id == TC_NO_PEER ? NULL : tc_engine_peer(engine, id);
    if (!peer) {
        tc_count(sender->counters, TC_COUNT_TX_NO_PEER, unit->count);
        return false;
    }
    tc_peer_stir(engine, peer);
    int path = path_of(peer);
    if (path < 0) {
        tc_count(sender->counters, TC_COUNT_TX_NO_ENDPOINT, unit->count);
        return false;
    }
    if (waits(sender, path)) {
        queue(sender, path, unit);
        return true;
    }
    uint64_t now = sender->batch.now, counter;
    tc_session *session = usable(peer, unit->count, now, &counter);
    if (!session) {
        stage(sender, peer, unit);
        return true;
    }
    uint8_t ecn = tc_ecn_of(packet);
    uint32_t largest = tc_unit_largest(unit);
    for (;;) {
        uint32_t length = tc_unit_next(unit, reserve(sender, largest));
        if (!length)
            break;
        commit(sender, session, counter++, length, ecn);
    }
    keep_fresh(engine, session, now);
    return true;
}

/* Drops what waited so long that who sent it has sent it again. */
static tc_staged *without_late(tc_sender *sender, tc_staged *staged) {
    uint64_t now = sender->batch.now;
    for (tc_staged *next; staged && staged->since + TC_STAGED_LATEST < now; staged = next) {
        next = staged->next;
        tc_count(sender->counters, TC_COUNT_TX_STAGE_DROPPED, 1);
        free(staged);
    }
    return staged;
}

int tc_sender_staged(tc_sender *sender, tc_peer *peer, bool keepalive) {
    if (path_of(peer) < 0)
        return -EDESTADDRREQ;
    uint64_t now = sender->batch.now, counter;
    if (!peer->current || tc_session_expired(peer->current, now))
        return -ENOKEY;
    tc_staged *staged = without_late(sender, tc_stage_take(peer));
    if (!staged && !keepalive)
        return 0;
    tc_session *session = NULL;
    if (!staged && (session = usable(peer, 1, now, &counter))) {
        reserve(sender, 0);
        commit(sender, session, counter, 0, 0);
    }
    for (tc_staged *next; staged; staged = next) {
        next = staged->next;
        session = usable(peer, 1, now, &counter);
        if (session) {
            memcpy(reserve(sender, staged->length), staged->packet, staged->length);
            commit(sender, session, counter, staged->length, tc_ecn_of(staged->packet));
        } else {
            tc_count(sender->counters, TC_COUNT_TX_STAGE_DROPPED, 1);
        }
        free(staged);
    }
    tc_sender_flush(sender);
    if (session)
        keep_fresh(sender->engine, session, now);
    return session ? 0 : -ENOKEY;
}

/* ---- sending it ---- */

/* Whether `next` may leave in the same UDP_SEGMENT message. */
static bool continues(const tc_message *run, const tc_outgoing *last, const tc_outgoing *next) {
    return next->peer == last->peer && next->ecn == last->ecn && next->data == last->data &&
           last->length == run->segment && next->length <= run->segment &&
           run->count < TC_OUTER_SEGMENTS_MAX && run->bytes + next->length <= TC_OUTER_BYTES_MAX;
}

/* Cuts the batch into messages; answers how many. */
static uint32_t make_runs(tc_sender *sender) {
    uint32_t runs = 0;
    bool never = sender->engine->options.flags & TC_NO_UDP_SEGMENT;
    bool plain = false;
    for (uint32_t i = 0; i < sender->count; i++) {
        tc_outgoing *packet = &sender->packets[i];
        tc_message *run = runs ? &sender->messages[runs - 1] : NULL;
        if (run && !plain && continues(run, packet - 1, packet)) {
            run->count++;
            run->bytes += packet->length;
            continue;
        }
        tc_peer *peer = packet->peer;
        run = &sender->messages[runs++];
        *run = (tc_message){.peer = peer,
                            .data = sender->buffer + packet->offset,
                            .bytes = packet->length,
                            .count = 1,
                            .segment = (uint16_t)packet->length,
                            .ds = packet->ecn};
        pthread_mutex_lock(&peer->lock);
        run->to = peer->endpoint;
        pthread_mutex_unlock(&peer->lock);
        plain = never || packet->length > UINT16_MAX ||
                sender->batch.now < atomic_load_explicit(&peer->plain_until, memory_order_relaxed);
    }
    return runs;
}

static void account(tc_sender *sender, const tc_message *run, bool data) {
    uint32_t sent = run->count - run->lost;
    if (!sent)
        return;
    uint64_t bytes = run->lost ? (uint64_t)sent * run->segment : run->bytes;
    tc_count(sender->counters, data ? TC_COUNT_TX_PACKETS : TC_COUNT_TX_KEEPALIVES, sent);
    tc_count(sender->counters, TC_COUNT_TX_BYTES, bytes);
    tc_count(sender->counters, TC_COUNT_TX_CALLS, 1);
    tc_peer_sent(run->peer, sent, bytes, data, sender->batch.now);
    uint8_t path = run->to.path;
    if (sender->uplinks && !sender->draining)
        tc_uplink_sent(&sender->uplinks[path], &sender->outers[path], (uint32_t)bytes);
}

void tc_sender_flush(tc_sender *sender) {
    if (!sender->count)
        return;
    if (tc_aead_seal(sender->aead, sender->jobs, sender->count) < 0) {
        /* Nothing of a batch that failed may leave: parts of it may still be plain. */
        tc_count(sender->counters, TC_COUNT_TX_SEAL_FAILED, sender->count);
    } else {
        uint32_t runs = make_runs(sender);
        tc_outer_send(&sender->batch, sender->outers, sender->messages, runs);
        uint32_t first = 0;
        for (uint32_t i = 0; i < runs; first += sender->messages[i++].count)
            account(sender, &sender->messages[i], sender->packets[first].data);
    }
    sender->count = 0;
    sender->used = 0;
}

/* ---- what has waited ---- */

static void drain(tc_sender *sender, tc_uplink *uplink, const tc_outer *outer) {
    uint64_t now = sender->batch.now, room = tc_uplink_room(uplink, outer, now);
    for (tc_queued *queued; (queued = tc_uplink_take(uplink, &room, now, sender->counters));) {
        /* As if the link had given it now: its peer, its key and its path may be others. */
        tc_unit unit;
        if (!tc_unit_open(&unit, NULL, queued->packet, queued->length))
            (void)tc_sender_unit(sender, &unit);
        free(queued);
        if (sender->used >= tc_drain_piece(&uplink->drain))
            tc_sender_flush(sender);
    }
    tc_sender_flush(sender);
    tc_uplink_gave(uplink, outer);
}

int tc_sender_drain(tc_sender *sender) {
    int retry = 0;
    sender->draining = true;
    for (uint32_t path = 0; sender->uplinks && path < TC_MAX_PATHS; path++) {
        tc_uplink *uplink = &sender->uplinks[path];
        if (!tc_uplink_has(uplink))
            continue;
        drain(sender, uplink, &sender->outers[path]);
        if (tc_uplink_has(uplink) && retry != TC_RETRY)
            retry =
                tc_drain_stalls(&uplink->drain, sender->batch.now) ? TC_RETRY_STALLED : TC_RETRY;
    }
    sender->draining = false;
    return retry;
}
