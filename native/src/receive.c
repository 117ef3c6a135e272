/* Inbound. All data messages of one recvmmsg are opened by one call, in place; then each is
 * checked in the order that the protocol wants: tag, replay, inner packet, source address. Nothing
 * of a peer changes before its packet has passed tag and replay window. */
#include "receive.h"

#include <errno.h>
#include <stdlib.h>

#include "ecn.h"
#include "engine.h"
#include "packet.h"

enum { MESSAGE_DATA = 4 };

int tc_receiver_init(tc_receiver *receiver, tc_engine *engine, const tc_link *link,
                     tc_counters *counters) {
    memset(receiver, 0, sizeof *receiver);
    receiver->engine = engine;
    receiver->counters = counters;
    receiver->aead = tc_aead_new(engine->options.flags);
    receiver->mac = tc_mac_new();
    receiver->buffer = aligned_alloc(64, TC_RECEIVE_BYTES);
    if (!receiver->aead || !receiver->mac || !receiver->buffer)
        return -ENOMEM;
    int error = tc_coalescer_init(&receiver->coalescer, link, counters);
    if (!error)
        error = tc_coalescer_init(&receiver->port, &engine->port, counters);
    receiver->coalescer.flags = receiver->port.flags = engine->options.flags;
    return error;
}

void tc_receiver_free(tc_receiver *receiver) {
    if (receiver->aead)
        tc_aead_free(receiver->aead);
    if (receiver->mac)
        tc_mac_free(receiver->mac);
    if (receiver->buffer)
        tc_wipe(receiver->buffer, TC_RECEIVE_BYTES);
    free(receiver->buffer);
    tc_coalescer_free(&receiver->coalescer);
    tc_coalescer_free(&receiver->port);
}

/* ---- the inner packet ---- */

/* To the link, or to the userspace stack where it has claimed the packet. */
static void pass_on(tc_receiver *receiver, const uint8_t *packet, uint32_t total) {
    const tc_engine *engine = receiver->engine;
    tc_destination whose = TC_FOR_LINK;
    if (engine->port.fd >= 0)
        whose = tc_claims_find(&engine->claims, packet, total);
    if (whose != TC_FOR_LINK)
        tc_coalescer_add(&receiver->port, packet, total);
    if (whose != TC_FOR_PORT)
        tc_coalescer_add(&receiver->coalescer, packet, total);
}

static void flush(tc_receiver *receiver) {
    tc_coalescer_flush(&receiver->coalescer);
    tc_coalescer_flush(&receiver->port);
}

static void deliver(tc_receiver *receiver, const tc_peer *peer, uint8_t *packet, uint32_t length,
                    uint8_t outer_ecn) {
    uint32_t total = tc_packet_total(packet, length);
    if (!total) {
        tc_count(receiver->counters, TC_COUNT_RX_INNER_MALFORMED, 1);
        return;
    }
    const tc_allowedips *allowed = receiver->engine->allowed;
    uint32_t owner = packet[0] >> 4 == 4 ? tc_allowedips_find4(allowed, packet + 12)
                                         : tc_allowedips_find6(allowed, packet + 8);
    if (owner != peer->id)
        tc_count(receiver->counters, TC_COUNT_RX_SOURCE_REFUSED, 1);
    else if (outer_ecn && !tc_ecn_fold(packet, outer_ecn))
        tc_count(receiver->counters, TC_COUNT_RX_ECN_DROPPED, 1);
    else
        pass_on(receiver, packet, total);
}

/* ---- after authentication ---- */

static bool same_place(const tc_endpoint *a, const tc_endpoint *b) {
    return a->family == b->family && a->port == b->port && a->path == b->path &&
           a->scope == b->scope && !memcmp(a->address, b->address, sizeof a->address);
}

/* What arrives on another path than the peer is sent to on changes nothing: two paths are open
 * while one is proven and while one is left, and which of them to send on is Python's to say. */
static void roam(tc_engine *engine, tc_peer *peer, const tc_endpoint *from) {
    pthread_mutex_lock(&peer->lock);
    bool here = !peer->endpoint.family || peer->endpoint.path == from->path;
    bool moved = here && !same_place(&peer->endpoint, from);
    if (here)
        peer->endpoint = *from;
    if (moved)
        atomic_store_explicit(&peer->plain_until, 0, memory_order_relaxed);
    pthread_mutex_unlock(&peer->lock);
    if (moved)
        tc_events_peer(&engine->events, peer, TC_EVENT_ENDPOINT);
}

static void confirm_later(tc_receiver *receiver, uint32_t index) {
    for (uint32_t i = 0; i < receiver->confirms; i++)
        if (receiver->confirmed[i] == index)
            return;
    if (receiver->confirms < TC_RECEIVE_CONFIRMS)
        receiver->confirmed[receiver->confirms++] = index;
}

/* An initiator whose session is about to end asks for another, once a session. */
static void last_minute(tc_engine *engine, tc_peer *peer, uint64_t now) {
    const tc_session *current = peer->current;
    if (current && current->initiator && now - current->created >= TC_REKEY_LAST_MINUTE &&
        !atomic_exchange_explicit(&peer->last_minute, true, memory_order_relaxed))
        tc_peer_want_handshake(engine, peer);
}

/* Jobs `first` to `end` are of one session and one arrival. */
static void finish_run(tc_receiver *receiver, uint32_t first, uint32_t end) {
    tc_session *session = receiver->incoming[first].session;
    tc_peer *peer = session->peer;
    const tc_arrival *arrival = &receiver->arrivals[receiver->incoming[first].arrival];
    uint64_t forged = 0, replayed = 0, keepalives = 0, packets = 0, bytes = 0;

    pthread_mutex_lock(&session->replay_lock);
    for (uint32_t i = first; i < end; i++) {
        tc_aead_job *job = &receiver->jobs[i];
        if (!job->ok) {
            forged++;
        } else if (!tc_replay_accept(&session->replay, job->counter)) {
            job->ok = false;
            replayed++;
        }
    }
    pthread_mutex_unlock(&session->replay_lock);
    for (uint32_t i = first; i < end; i++) {
        const tc_aead_job *job = &receiver->jobs[i];
        if (!job->ok)
            continue;
        packets++;
        bytes += job->length + TC_DATA_HEADER;
        if (job->length == TC_TAG_BYTES)
            keepalives++;
        else
            deliver(receiver, peer, job->out, job->length - TC_TAG_BYTES, arrival->ds & 3);
    }
    tc_count(receiver->counters, TC_COUNT_RX_AUTH_FAILED, forged);
    tc_count(receiver->counters, TC_COUNT_RX_REPLAYED, replayed);
    if (!packets)
        return;
    tc_count(receiver->counters, TC_COUNT_RX_KEEPALIVES, keepalives);
    tc_count(receiver->counters, TC_COUNT_RX_BYTES, bytes);
    tc_peer_received(peer, packets, bytes, packets > keepalives, receiver->now);
    tc_peer_stir(receiver->engine, peer);
    roam(receiver->engine, peer, &arrival->from);
    if (session == peer->next)
        confirm_later(receiver, session->local_index);
    last_minute(receiver->engine, peer, receiver->now);
}

static void finish_jobs(tc_receiver *receiver) {
    if (!receiver->count)
        return;
    tc_aead_open(receiver->aead, receiver->jobs, receiver->count);
    const tc_incoming *incoming = receiver->incoming;
    for (uint32_t first = 0, end; first < receiver->count; first = end) {
        for (end = first + 1; end < receiver->count; end++)
            if (incoming[end].session != incoming[first].session ||
                incoming[end].arrival != incoming[first].arrival)
                break;
        finish_run(receiver, first, end);
    }
    receiver->count = 0;
}

/* ---- before it ---- */

static void take_data(tc_receiver *receiver, uint8_t *data, uint32_t length, uint32_t arrival) {
    if (length < TC_DATA_OVERHEAD) {
        tc_count(receiver->counters, TC_COUNT_RX_BAD_SIZE, 1);
        return;
    }
    tc_session *session = tc_index_find(&receiver->engine->sessions, tc_get_le32(data + 4));
    if (!session) {
        tc_count(receiver->counters, TC_COUNT_RX_UNKNOWN_INDEX, 1);
        return;
    }
    uint64_t counter = tc_get_le64(data + 8);
    if (tc_session_expired(session, receiver->now) || counter >= TC_REJECT_AFTER_MESSAGES) {
        tc_count(receiver->counters, TC_COUNT_RX_KEY_EXPIRED, 1);
        return;
    }
    if (receiver->count == TC_RECEIVE_JOBS)
        finish_jobs(receiver);
    receiver->incoming[receiver->count] = (tc_incoming){.session = session, .arrival = arrival};
    receiver->jobs[receiver->count++] = (tc_aead_job){.key = session->keys->receive,
                                                      .counter = counter,
                                                      .in = data + TC_DATA_HEADER,
                                                      .out = data + TC_DATA_HEADER,
                                                      .length = length - TC_DATA_HEADER};
}

static void classify(tc_receiver *receiver, uint8_t *data, uint32_t length, uint32_t arrival) {
    tc_count(receiver->counters, TC_COUNT_RX_DATAGRAMS, 1);
    uint32_t type = length < 4 ? 0 : tc_get_le32(data);
    if (type == MESSAGE_DATA)
        take_data(receiver, data, length, arrival);
    else if (type >= 1 && type < MESSAGE_DATA)
        tc_receive_handshake(receiver, data, length, &receiver->arrivals[arrival].from);
    else
        tc_count(receiver->counters, TC_COUNT_RX_UNKNOWN_TYPE, 1);
}

void tc_receiver_datagram(tc_receiver *receiver, uint8_t *data, uint32_t length,
                          const tc_arrival *arrival) {
    receiver->arrivals[0] = *arrival;
    classify(receiver, data, length, 0);
    finish_jobs(receiver);
    flush(receiver);
}

static void make_slots(tc_receiver *receiver, uint32_t stride) {
    uint32_t slots = TC_RECEIVE_BYTES / stride;
    receiver->slots = slots < TC_RECEIVE_SLOTS ? slots : TC_RECEIVE_SLOTS;
    receiver->stride = stride;
    for (uint32_t i = 0; i < receiver->slots; i++) {
        receiver->parts[i] =
            (struct iovec){.iov_base = receiver->buffer + (size_t)i * stride, .iov_len = stride};
        receiver->headers[i].msg_hdr = (struct msghdr){.msg_name = &receiver->names[i],
                                                       .msg_iov = &receiver->parts[i],
                                                       .msg_iovlen = 1,
                                                       .msg_control = receiver->control[i]};
    }
    receiver->spent = receiver->slots;
}

static uint32_t prepare(tc_receiver *receiver) {
    uint32_t stride = TC_RECEIVE_GRO_STRIDE;
    if (receiver->engine->options.flags & TC_NO_UDP_GRO) {
        uint32_t mtu = receiver->engine->mtu + TC_DATA_OVERHEAD + 16;
        stride = mtu < TC_RECEIVE_STRIDE_MIN   ? TC_RECEIVE_STRIDE_MIN
                 : mtu < TC_RECEIVE_GRO_STRIDE ? mtu
                                               : TC_RECEIVE_GRO_STRIDE;
    }
    if (stride != receiver->stride)
        make_slots(receiver, stride);
    for (uint32_t i = 0; i < receiver->spent; i++) {
        struct msghdr *header = &receiver->headers[i].msg_hdr;
        header->msg_namelen = sizeof receiver->names[i];
        header->msg_controllen = TC_ARRIVAL_CONTROL;
    }
    receiver->spent = 0;
    return receiver->slots;
}

bool tc_receiver_batch(tc_receiver *receiver, int fd, uint8_t path, const tc_endpoint *local,
                       tc_gather *gather) {
    uint32_t slots = prepare(receiver);
    int got = recvmmsg(fd, receiver->headers, slots, MSG_DONTWAIT, NULL);
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return false;
        tc_count(receiver->counters, TC_COUNT_RX_SOCKET_ERRORS, 1);
        if (local)
            return true; /* what ICMP said of the far end, once: no fault of the socket */
        if (!receiver->reported || receiver->now - receiver->reported >= TC_SECOND) {
            receiver->reported = receiver->now;
            tc_events_outer(&receiver->engine->events, path, errno);
        }
        return false;
    }
    receiver->spent = (uint32_t)got;
    gather->packets += (uint32_t)got;
    gather->more |= (uint32_t)got == slots;
    for (uint32_t i = 0; i < (uint32_t)got; i++) {
        struct msghdr *header = &receiver->headers[i].msg_hdr;
        if (header->msg_flags & MSG_TRUNC) {
            tc_count(receiver->counters, TC_COUNT_RX_TRUNCATED, 1);
            continue;
        }
        tc_arrival *arrival = &receiver->arrivals[i];
        tc_outer_arrival(header, path, local, arrival);
        uint8_t *data = header->msg_iov->iov_base;
        uint32_t left = receiver->headers[i].msg_len;
        gather->bytes += left;
        uint32_t segment = arrival->segment ? arrival->segment : left;
        do {
            uint32_t length = left < segment ? left : segment;
            classify(receiver, data, length, i);
            data += length;
            left -= length;
        } while (left);
    }
    finish_jobs(receiver);
    flush(receiver);
    return got > 0;
}
