/* The engine as a whole: birth and death, identity, clock, events, counters, allowed IPs. */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "mac.h"

static const char *const counter_names[] = {
#define X(symbol, name) name,
    TC_COUNTER_LIST(X)
#undef X
};

static void init_locks(tc_engine *engine) {
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    /* Workers take the shared side again and again: without this a writer might never get in. */
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&engine->lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    pthread_mutex_init(&engine->handshake_lock, NULL);
}

static int init_parts(tc_engine *engine) {
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        return -EIO;
    engine->limiter = tc_limiter_new(seed);
    engine->askers = tc_limiter_new(seed);
    engine->allowed = tc_allowedips_new();
    engine->vault = tc_vault_new();
    if (!engine->limiter || !engine->askers || !engine->allowed || !engine->vault)
        return -ENOMEM;
    int error = tc_index_init(&engine->sessions);
    if (!error)
        error = tc_events_init(&engine->events, engine->options.ring_slots);
    size_t bytes = engine->options.workers * sizeof *engine->workers;
    engine->workers = error ? NULL : aligned_alloc(64, bytes);
    if (!engine->workers)
        return error ? error : -ENOMEM;
    memset(engine->workers, 0, bytes);
    for (uint32_t i = 0; i < engine->options.workers && !error; i++)
        error = tc_worker_init(&engine->workers[i], engine, i);
    if (!error)
        error = tc_sender_init(&engine->sender, engine, engine->workers[0].outers, NULL,
                               &engine->counters);
    return error;
}

int tc_engine_new(const tc_options *options, tc_engine **out) {
    uint32_t slots = options->ring_slots;
    if (!options->workers || options->workers > TC_MAX_WORKERS || slots < 64 || slots > 65536 ||
        slots & (slots - 1))
        return -EINVAL;
    tc_engine *engine = aligned_alloc(64, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    memset(engine, 0, sizeof *engine);
    engine->options = *options;
    engine->events.fd = -1;
    engine->port.fd = -1;
    init_locks(engine);
    int error = init_parts(engine);
    if (error) {
        tc_engine_free(engine);
        return error;
    }
    *out = engine;
    return 0;
}

void tc_engine_free(tc_engine *engine) {
    if (!engine)
        return;
    tc_engine_stop(engine);
    for (uint32_t i = 0; i < engine->peer_slots; i++)
        tc_peer_free(engine, engine->peers[i]);
    free(engine->peers);
    for (uint32_t i = 0; engine->workers && i < engine->options.workers; i++)
        tc_worker_free(&engine->workers[i]);
    free(engine->workers);
    tc_sender_free(&engine->sender);
    tc_events_free(&engine->events);
    tc_index_free(&engine->sessions);
    tc_vault_free(engine->vault);
    if (engine->allowed)
        tc_allowedips_free(engine->allowed);
    if (engine->limiter)
        tc_limiter_free(engine->limiter);
    if (engine->askers)
        tc_limiter_free(engine->askers);
    pthread_mutex_destroy(&engine->handshake_lock);
    pthread_rwlock_destroy(&engine->lock);
    tc_wipe((uint8_t *)engine, sizeof *engine);
    free(engine);
}

int tc_engine_start(tc_engine *engine) {
    if (atomic_exchange(&engine->running, true))
        return -EALREADY;
    for (uint32_t i = 0; i < engine->options.workers; i++) {
        int error = tc_worker_start(&engine->workers[i]);
        if (!error)
            continue;
        atomic_store(&engine->running, false);
        while (i-- > 0)
            tc_worker_join(&engine->workers[i]);
        return error;
    }
    return 0;
}

int tc_engine_stop(tc_engine *engine) {
    if (!atomic_exchange(&engine->running, false))
        return 0;
    for (uint32_t i = 0; i < engine->options.workers; i++)
        tc_worker_join(&engine->workers[i]);
    return 0;
}

/* ---- clock ---- */

uint64_t tc_engine_now(const tc_engine *engine) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * TC_SECOND + (uint64_t)t.tv_nsec +
           atomic_load_explicit(&engine->clock_offset, memory_order_relaxed);
}

int tc_engine_advance_clock(tc_engine *engine, uint64_t nanoseconds) {
    atomic_fetch_add_explicit(&engine->clock_offset, nanoseconds, memory_order_relaxed);
    return 0;
}

/* ---- events and counters ---- */

int tc_engine_event_fd(const tc_engine *engine) {
    return engine->events.fd;
}

int tc_engine_events(tc_engine *engine, tc_event *events, uint32_t count) {
    tc_lock_shared(engine);
    uint32_t taken = tc_events_take(&engine->events, events, count);
    for (uint32_t i = 0; i < taken; i++) {
        if (events[i].kind != TC_EVENT_ENDPOINT)
            continue;
        tc_peer *peer = tc_engine_peer(engine, events[i].peer);
        pthread_mutex_lock(&peer->lock);
        events[i].endpoint = peer->endpoint;
        pthread_mutex_unlock(&peer->lock);
    }
    tc_unlock(engine);
    return (int)taken;
}

int tc_engine_counters(tc_engine *engine, uint64_t *values, uint32_t count) {
    if (count > TC_COUNT_ALL)
        count = TC_COUNT_ALL;
    for (uint32_t c = 0; c < count; c++) {
        values[c] = atomic_load_explicit(&engine->counters.values[c], memory_order_relaxed);
        for (uint32_t i = 0; i < engine->options.workers; i++)
            values[c] +=
                atomic_load_explicit(&engine->workers[i].counters.values[c], memory_order_relaxed);
    }
    return (int)count;
}

const char *tc_counter_name(uint32_t index) {
    return index < TC_COUNT_ALL ? counter_names[index] : NULL;
}

/* ---- identity ---- */

int tc_engine_identity(tc_engine *engine, const uint8_t *public_key) {
    uint8_t key[32] = {0};
    int error = 0;
    if (public_key) {
        tc_mac *mac = tc_mac_new();
        if (!mac)
            return -ENOMEM;
        error = tc_mac_key(mac, "mac1----", public_key, key);
        tc_mac_free(mac);
    }
    if (error)
        return error;
    tc_lock_exclusive(engine);
    engine->has_identity = public_key != NULL;
    memcpy(engine->mac1_key, key, sizeof key);
    for (uint32_t i = 0; i < engine->peer_slots; i++)
        if (engine->peers[i])
            atomic_store_explicit(&engine->peers[i]->handshake_asked, false, memory_order_relaxed);
    tc_unlock(engine);
    return 0;
}

int tc_engine_cookie_secret(tc_engine *engine, const uint8_t *secret) {
    tc_lock_exclusive(engine);
    if (engine->cookie)
        tc_vault_give(engine->vault, engine->cookie);
    engine->cookie = secret ? tc_vault_take(engine->vault) : NULL;
    if (engine->cookie)
        memcpy(engine->cookie->send, secret, sizeof engine->cookie->send);
    int error = secret && !engine->cookie ? -ENOMEM : 0;
    tc_unlock(engine);
    return error;
}

/* ---- allowed IPs ---- */

int tc_allowed_add(tc_engine *engine, uint32_t id, int family, const uint8_t *address,
                   uint32_t prefix) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    error = tc_allowedips_add(engine->allowed, family, address, prefix, id);
    tc_unlock(engine);
    return error;
}

int tc_allowed_remove(tc_engine *engine, uint32_t id, int family, const uint8_t *address,
                      uint32_t prefix) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    error = tc_allowedips_remove(engine->allowed, family, address, prefix, id);
    tc_unlock(engine);
    return error;
}

int tc_allowed_clear(tc_engine *engine, uint32_t id) {
    tc_peer *peer;
    int error = tc_lock_peer(engine, id, &peer);
    if (error)
        return error;
    tc_allowedips_remove_peer(engine->allowed, id);
    tc_unlock(engine);
    return 0;
}

int64_t tc_allowed_find(tc_engine *engine, int family, const uint8_t *address) {
    if (family != 4 && family != 6)
        return -EINVAL;
    tc_lock_shared(engine);
    uint32_t peer = family == 4 ? tc_allowedips_find4(engine->allowed, address)
                                : tc_allowedips_find6(engine->allowed, address);
    tc_unlock(engine);
    return peer == TC_NO_PEER ? -ENOENT : (int64_t)peer;
}
