/* The worker's loop. */
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

/* A batch of the link ends at this many bytes or packets: enough to fill the calls below, little
 * enough to stay in the caches and to let the other direction in. */
enum { BATCH_BYTES = 64 * 1024, BATCH_PACKETS = 64 };

int tc_worker_init(tc_worker *worker, tc_engine *engine, uint32_t index) {
    tc_uplink *uplinks = engine->options.flags & TC_NO_UPLINK_QUEUE ? NULL : worker->uplinks;
    worker->engine = engine;
    worker->index = index;
    worker->link.fd = -1;
    tc_host_init(&worker->host);
    tc_gather_init(&worker->gather);
    for (int path = 0; path < TC_MAX_PATHS; path++) {
        worker->outers[path] = TC_OUTER_NONE;
        tc_uplink_init(&worker->uplinks[path]);
    }
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    worker->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (worker->epoll < 0 || worker->wake < 0)
        return -errno;
    worker->input = aligned_alloc(64, (TC_LINK_READ_BYTES + 63) & ~63u);
    if (!worker->input)
        return -ENOMEM;
    int error = tc_worker_watch(worker, worker->wake, TC_SLOT_WAKE);
    if (!error)
        error = tc_sender_init(&worker->sender, engine, worker->outers, uplinks, &worker->counters);
    if (!error)
        error = tc_receiver_init(&worker->receiver, engine, &worker->link, &worker->counters);
    return error;
}

void tc_worker_free(tc_worker *worker) {
    if (!worker->engine)
        return; /* never initialised */
    tc_host_free(&worker->host);
    tc_sender_free(&worker->sender);
    for (int path = 0; path < TC_MAX_PATHS; path++)
        tc_uplink_free(&worker->uplinks[path]);
    tc_receiver_free(&worker->receiver);
    if (worker->input)
        tc_wipe(worker->input, TC_LINK_READ_BYTES);
    free(worker->input);
    if (worker->epoll >= 0)
        close(worker->epoll);
    if (worker->wake >= 0)
        close(worker->wake);
    tc_waker_free(&worker->waker);
}

/* ---- the loop ---- */

static void answer_unreachable(tc_worker *worker, const tc_link *link, const tc_unit *unit) {
    uint8_t error[TC_ICMP_BYTES];
    uint32_t length = 0;
    if (tc_icmp_permit(&worker->icmp, worker->sender.batch.now))
        length = tc_icmp_unreachable(unit->packet, unit->length, error);
    bool sent = length && tc_link_write(link, NULL, error, length) == 0;
    tc_count(&worker->counters, sent ? TC_COUNT_TX_ICMP : TC_COUNT_TX_ICMP_SUPPRESSED, 1);
}

/* Reads the link, or the userspace stack's port, until it is empty or the batch is full. Answers
 * the errno of a dead one. */
static int serve_link(tc_worker *worker, const tc_link *link) {
    tc_sender *sender = &worker->sender;
    int dead = 0;
    uint32_t reads = 0, bytes = 0; /* not all of them are in the sender's batch: some wait */
    while (reads < BATCH_PACKETS && bytes < BATCH_BYTES && sender->count < BATCH_PACKETS) {
        tc_unit unit;
        int error = tc_link_read(link, worker->input, &unit);
        if (error == -EBADMSG) {
            tc_count(&worker->counters, TC_COUNT_TX_MALFORMED, 1);
            reads++;
        } else if (error) {
            dead = tc_link_is_dead(error) ? -error : 0;
            break;
        } else {
            tc_count(&worker->counters, TC_COUNT_TX_UNITS, 1);
            reads++;
            worker->gather.packets++;
            worker->gather.bytes += unit.length;
            bytes += unit.length;
            if (!tc_sender_unit(sender, &unit))
                answer_unreachable(worker, link, &unit);
        }
    }
    tc_sender_flush(sender);
    worker->gather.more |= reads == BATCH_PACKETS;
    return dead;
}

static void serve_outer(tc_worker *worker, uint32_t slot) {
    uint32_t path = (slot - TC_SLOT_OUTER) / TC_OUTER_SOCKETS;
    uint32_t which = (slot - TC_SLOT_OUTER) % TC_OUTER_SOCKETS;
    const tc_outer *outer = &worker->outers[path];
    int fd = (int[TC_OUTER_SOCKETS]){outer->fd4, outer->fd6, outer->connected}[which];
    const tc_endpoint *local = which == 2 ? &outer->to : NULL;
    if (fd >= 0)
        (void)tc_receiver_batch(&worker->receiver, fd, (uint8_t)path, local, &worker->gather);
}

/* Sessions that their first packet confirmed. Rare: once a handshake. */
static void settle(tc_worker *worker) {
    tc_engine *engine = worker->engine;
    tc_receiver *receiver = &worker->receiver;
    for (uint32_t i = 0; i < receiver->confirms; i++) {
        tc_session *session = tc_index_find(&engine->sessions, receiver->confirmed[i]);
        if (!session || session->peer->next != session)
            continue; /* another worker was first, or Python took it back */
        tc_peer_confirm(engine, session->peer);
        tc_sender_staged(&worker->sender, session->peer, false);
    }
    receiver->confirms = 0;
}

/* What is ready, after a wait if there is nothing yet; 0 or -1 when there is still nothing. */
static int next_events(tc_worker *worker, struct epoll_event *ready) {
    tc_gather *gather = &worker->gather;
    uint64_t now = tc_engine_now(worker->engine);
    if (tc_gather_pause(gather)) {
        now = tc_engine_now(worker->engine);
        tc_urgency_rest(&worker->urgency, now);
    }
    int count = epoll_wait(worker->epoll, ready, TC_SLOTS, 0);
    worker->waited = !count;
    if (count) {
        tc_urgency_go_on(&worker->urgency, now);
    } else {
        tc_gather_in_vain(gather);
        count = epoll_wait(worker->epoll, ready, TC_SLOTS, worker->behind ? worker->behind : -1);
        now = tc_engine_now(worker->engine);
        tc_urgency_rest(&worker->urgency, now);
    }
    tc_gather_begin(gather, now);
    return count;
}

/* For real-time threads only, since the kernel places all others; and where there is one worker:
 * with several a device or a port is not one worker's. */
static void look_for_wakers(tc_worker *worker) {
    tc_lock_exclusive(worker->engine);
    if (!worker->waker.notes)
        tc_waker_init(&worker->waker);
    tc_waker_watch_link(&worker->waker, worker->link.fd);
    tc_unlock(worker->engine);
}

/* Watches who sends to the sockets, or no longer. Under the lock, for they change. */
static void watch_outers(tc_worker *worker, bool on) {
    for (uint32_t path = 0; path < TC_MAX_PATHS; path++) {
        tc_waker_watch_outer(&worker->waker, worker->outers[path].fd4, on);
        tc_waker_watch_outer(&worker->waker, worker->outers[path].fd6, on);
        tc_waker_watch_outer(&worker->waker, worker->outers[path].connected, on);
    }
    worker->watched = worker->attached;
}

/* The round is over: takes note of it. Under the lock. Answers whether place changes. */
static bool note_place(tc_worker *worker, uint32_t slot) {
    if (!worker->waker.notes)
        return false;
    tc_waker_kind kind = slot >= TC_SLOT_OUTER ? TC_FROM_OUTER : TC_FROM_LINK;
    bool was_busy = worker->place.state == TC_PLACE_FREE;
    bool changes = tc_place_note(&worker->place,
                                 &(tc_place_round){.waited = worker->waited,
                                                   .packets = worker->gather.packets,
                                                   .bytes = worker->gather.bytes,
                                                   .kind = kind,
                                                   .processor = tc_waker_last(&worker->waker, kind),
                                                   .here = sched_getcpu()});
    bool busy = worker->place.state == TC_PLACE_FREE;
    if (busy != was_busy || (!busy && worker->watched != worker->attached))
        watch_outers(worker, !busy);
    return changes;
}

/* Everything that what is ready asks for. */
static void serve(tc_worker *worker, const struct epoll_event *ready, int count) {
    tc_engine *engine = worker->engine;
    int dead = 0, gone = 0; /* of the link and of the port */
    tc_lock_shared(engine);
    uint64_t now = tc_engine_now(engine);
    worker->sender.batch.now = now;
    worker->receiver.now = now;
    for (int i = 0; i < count; i++) {
        uint32_t slot = ready[i].data.u32;
        if (slot >= TC_SLOT_OUTER)
            serve_outer(worker, slot);
        else if (slot == TC_SLOT_LINK && worker->link.fd >= 0)
            dead = serve_link(worker, &worker->link);
        else if (slot == TC_SLOT_PORT && engine->port.fd >= 0)
            gone = serve_link(worker, &engine->port);
    }
    bool link_behind = tc_coalescer_retry(&worker->receiver.coalescer);
    bool port_behind = tc_coalescer_retry(&worker->receiver.port);
    worker->behind = tc_sender_drain(&worker->sender);
    if (link_behind || port_behind)
        worker->behind = TC_RETRY;
    bool moves = count && note_place(worker, ready[0].data.u32);
    int fd = worker->link.fd, port = engine->port.fd;
    if (!dead)
        dead = worker->receiver.coalescer.dead;
    tc_unlock(engine);
    if (moves)
        tc_urgency_keep_to(&worker->urgency,
                           worker->place.state == TC_PLACE_KEPT ? worker->place.processor : -1);
    if (!dead && !gone && !worker->receiver.confirms)
        return;
    tc_lock_exclusive(engine);
    settle(worker);
    worker->receiver.coalescer.dead = worker->receiver.port.dead = 0;
    if (gone && engine->port.fd == port)
        tc_worker_drop_port(worker); /* the stack closed its end, so it knows */
    if (dead && fd >= 0 && worker->link.fd == fd) {
        tc_worker_drop_link(worker);
        tc_events_link(&engine->events, worker->index, dead);
    }
    tc_unlock(engine);
}

static void *run(void *argument) {
    tc_worker *worker = argument;
    tc_engine *engine = worker->engine;
    struct epoll_event ready[TC_SLOTS];
    (void)prctl(PR_SET_TIMERSLACK, 1UL); /* or a pause to gather would be twice as long */
    bool real_time = engine->options.flags & TC_REAL_TIME;
    tc_urgency_begin(&worker->urgency, real_time, tc_engine_now(engine));
    worker->place = (tc_place){0};
    if (worker->urgency.permitted && engine->options.workers == 1)
        look_for_wakers(worker);
    while (atomic_load(&engine->running)) {
        int count = next_events(worker, ready);
        if (count < 0 || (!count && !worker->behind))
            continue;
        serve(worker, ready, count);
        tc_host_lend(worker);
    }
    return NULL;
}

/* ---- for a host ---- */

bool tc_worker_turn(tc_worker *worker) {
    struct epoll_event ready[TC_SLOTS];
    int count = epoll_wait(worker->epoll, ready, TC_SLOTS, 0);
    tc_gather_begin(&worker->gather, tc_engine_now(worker->engine));
    if (count > 0 || worker->behind)
        serve(worker, ready, count > 0 ? count : 0);
    return count > 0;
}

bool tc_worker_send(tc_worker *worker, const uint8_t *data, uint32_t size, bool drain) {
    tc_engine *engine = worker->engine;
    tc_sender *sender = &worker->sender;
    struct virtio_net_hdr vnet;
    uint32_t length;
    bool answered = false;
    tc_lock_shared(engine);
    sender->batch.now = tc_engine_now(engine);
    while (drain && worker->link.fd >= 0) {
        worker->gather.packets = 0;
        (void)serve_link(worker, &worker->link); /* a dead one is found by the next turn */
        drain = worker->gather.packets > 0;
    }
    while (size >= sizeof length + sizeof vnet) {
        memcpy(&length, data, sizeof length);
        memcpy(&vnet, data + sizeof length, sizeof vnet);
        data += sizeof length + sizeof vnet;
        size -= (uint32_t)(sizeof length + sizeof vnet);
        if (length > size)
            break;
        tc_unit unit;
        if (tc_unit_open(&unit, &vnet, data, length)) {
            tc_count(&worker->counters, TC_COUNT_TX_MALFORMED, 1);
        } else {
            tc_count(&worker->counters, TC_COUNT_TX_UNITS, 1);
            if (!tc_sender_unit(sender, &unit)) {
                answer_unreachable(worker, &worker->link, &unit);
                answered = true;
            }
        }
        data += length;
        size -= length;
    }
    tc_sender_flush(sender);
    int behind = tc_sender_drain(sender);
    if (!worker->behind)
        worker->behind = behind;
    tc_unlock(engine);
    return answered;
}

int tc_worker_start(tc_worker *worker) {
    /* Signals belong to Python's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int error = pthread_create(&worker->thread, NULL, run, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return -error;
    char name[16];
    snprintf(name, sizeof name, "tunnel-%u", worker->index);
    pthread_setname_np(worker->thread, name);
    return 0;
}

void tc_worker_join(tc_worker *worker) {
    uint64_t one = 1;
    (void)!write(worker->wake, &one, sizeof one);
    tc_host_wake(&worker->host);
    pthread_join(worker->thread, NULL);
    (void)!read(worker->wake, &one, sizeof one);
}
