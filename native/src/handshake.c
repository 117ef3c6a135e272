/* Handshake messages cost Python time, so what cannot be meant for us, or comes too fast, ends
 * here: mac1 first, and under load mac2 and the limiter (WireGuard paper, 5.3). */
#include "engine.h"
#include "receive.h"

enum { INITIATION = 1, RESPONSE = 2, COOKIE_REPLY = 3 };

#define LOAD_TIME TC_SECOND

static bool under_load(tc_engine *engine, uint64_t now, uint32_t waiting) {
    if (waiting > engine->options.ring_slots / 8)
        atomic_store_explicit(&engine->load_until, now + LOAD_TIME, memory_order_relaxed);
    return now < atomic_load_explicit(&engine->load_until, memory_order_relaxed);
}

/* Whether an address has not come too often lately. */
static bool in_turn(tc_engine *engine, tc_limiter *limiter, const tc_endpoint *from, uint64_t now) {
    pthread_mutex_lock(&engine->handshake_lock);
    bool allowed = tc_limiter_allow(limiter, from, now);
    pthread_mutex_unlock(&engine->handshake_lock);
    return allowed;
}

static void hand_over(tc_receiver *receiver, uint32_t kind, enum tc_counter counter,
                      const uint8_t *data, uint32_t length, const tc_endpoint *from) {
    bool room = tc_events_message(&receiver->engine->events, kind, from, data, length);
    tc_count(receiver->counters, room ? counter : TC_COUNT_RX_RING_FULL, 1);
}

void tc_receive_handshake(tc_receiver *receiver, const uint8_t *data, uint32_t length,
                          const tc_endpoint *from) {
    static const uint32_t sizes[] = {[INITIATION] = 148, [RESPONSE] = 92, [COOKIE_REPLY] = 64};
    tc_engine *engine = receiver->engine;
    uint32_t type = data[0];
    if (length != sizes[type]) {
        tc_count(receiver->counters, TC_COUNT_RX_BAD_SIZE, 1);
        return;
    }
    uint32_t slots = engine->options.ring_slots;
    uint32_t waiting = atomic_load_explicit(&engine->events.load, memory_order_relaxed);
    if (type == COOKIE_REPLY) {
        /* Nothing in it can be checked here, so it never takes the ring from the others. */
        if (waiting >= slots / 2)
            tc_count(receiver->counters, TC_COUNT_RX_RING_FULL, 1);
        else
            hand_over(receiver, TC_EVENT_MESSAGE, TC_COUNT_RX_HANDSHAKES, data, length, from);
        return;
    }
    if (!engine->has_identity || !tc_mac1_valid(receiver->mac, engine->mac1_key, data, length)) {
        tc_count(receiver->counters, TC_COUNT_RX_MAC1_INVALID, 1);
        return;
    }
    if (under_load(engine, receiver->now, waiting)) {
        if (!engine->cookie ||
            !tc_mac2_valid(receiver->mac, engine->cookie->send, from, data, length)) {
            /* Leaves the last quarter to those who have shown their address, and the one before
             * to addresses that did not fill the first half. */
            if (waiting >= slots / 4 * 3)
                tc_count(receiver->counters, TC_COUNT_RX_RING_FULL, 1);
            else if (waiting >= slots / 2 && !in_turn(engine, engine->askers, from, receiver->now))
                tc_count(receiver->counters, TC_COUNT_RX_RATE_LIMITED, 1);
            else
                hand_over(receiver, TC_EVENT_COOKIE_WANTED, TC_COUNT_RX_COOKIE_WANTED, data, length,
                          from);
            return;
        }
        if (!in_turn(engine, engine->limiter, from, receiver->now)) {
            tc_count(receiver->counters, TC_COUNT_RX_RATE_LIMITED, 1);
            return;
        }
    }
    hand_over(receiver, TC_EVENT_MESSAGE, TC_COUNT_RX_HANDSHAKES, data, length, from);
}
