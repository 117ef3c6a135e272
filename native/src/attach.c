/* Attaching descriptors to workers, and taking them away. */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

#include "engine.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* Receive calls, of a megabyte each, before a socket is given up: more than its buffer holds, and
 * an end where the peer goes on sending. */
enum { LAST_CALLS = 64 };

int tc_worker_watch(tc_worker *worker, int fd, uint32_t slot) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = slot};
    return epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static void unwatch(tc_worker *worker, int fd) {
    if (fd >= 0)
        (void)epoll_ctl(worker->epoll, EPOLL_CTL_DEL, fd, NULL);
}

void tc_worker_drop_link(tc_worker *worker) {
    unwatch(worker, worker->link.fd);
    tc_backlog_clear(&worker->receiver.coalescer.backlog);
    worker->link = (tc_link){.fd = -1};
}

void tc_worker_drop_port(tc_worker *worker) {
    tc_engine *engine = worker->engine;
    unwatch(worker, engine->port.fd);
    for (uint32_t i = 0; i < engine->options.workers; i++)
        tc_backlog_clear(&engine->workers[i].receiver.port.backlog);
    engine->port = (tc_link){.fd = -1};
}

/* Connects a socket to another port of its far end: what comes is for the unconnected ones. */
static void turn_away(int fd) {
    struct sockaddr_in6 name; /* the port of a sockaddr_in is in the same place */
    socklen_t length = sizeof name;
    if (getpeername(fd, (struct sockaddr *)&name, &length) < 0)
        return;
    enum { DISCARD = 9 };
    name.sin6_port = htons(ntohs(name.sin6_port) != DISCARD ? DISCARD : DISCARD + 1);
    (void)connect(fd, (struct sockaddr *)&name, length); /* no route: then nothing comes either */
}

/* What has arrived at the connected socket is taken first: it is about to be closed. */
static void disconnect(tc_worker *worker, uint32_t path) {
    tc_outer *outer = &worker->outers[path];
    if (outer->connected < 0)
        return;
    unwatch(worker, outer->connected);
    turn_away(outer->connected);
    tc_gather nobody = {0};
    worker->receiver.now = tc_engine_now(worker->engine);
    for (int i = 0; i < LAST_CALLS; i++)
        if (!tc_receiver_batch(&worker->receiver, outer->connected, (uint8_t)path, &outer->to,
                               &nobody))
            break;
    outer->connected = -1;
    tc_uplink_renew(&worker->uplinks[path], outer);
}

void tc_worker_drop_outer(tc_worker *worker, uint32_t path) {
    disconnect(worker, path);
    unwatch(worker, worker->outers[path].fd4);
    unwatch(worker, worker->outers[path].fd6);
    worker->outers[path] = TC_OUTER_NONE;
}

int tc_link_attach(tc_engine *engine, uint32_t index, int fd, uint32_t flags, uint32_t mtu) {
    if (index >= engine->options.workers || fd < 0 || mtu < 68 || mtu > TC_UNIT_MAX)
        return -EINVAL;
    int error = set_nonblocking(fd);
    if (error)
        return error;
    tc_lock_exclusive(engine);
    tc_worker *worker = &engine->workers[index];
    tc_worker_drop_link(worker);
    error = tc_worker_watch(worker, fd, TC_SLOT_LINK);
    if (!error) {
        worker->link = (tc_link){.fd = fd, .flags = flags};
        tc_waker_watch_link(&worker->waker, fd);
        engine->mtu = mtu;
    }
    tc_unlock(engine);
    return error;
}

int tc_link_detach(tc_engine *engine, uint32_t index) {
    if (index >= engine->options.workers)
        return -EINVAL;
    tc_lock_exclusive(engine);
    tc_worker_drop_link(&engine->workers[index]);
    tc_unlock(engine);
    return 0;
}

int tc_port_attach(tc_engine *engine, int fd, uint32_t flags) {
    if (fd < 0)
        return -EINVAL;
    int error = set_nonblocking(fd);
    if (error)
        return error;
    tc_lock_exclusive(engine);
    tc_worker_drop_port(&engine->workers[0]);
    error = tc_worker_watch(&engine->workers[0], fd, TC_SLOT_PORT);
    if (!error)
        engine->port = (tc_link){.fd = fd, .flags = flags};
    tc_unlock(engine);
    return error;
}

int tc_port_detach(tc_engine *engine) {
    tc_lock_exclusive(engine);
    tc_worker_drop_port(&engine->workers[0]);
    tc_unlock(engine);
    return 0;
}

int tc_claim(tc_engine *engine, int protocol, uint32_t port, int on) {
    tc_lock_exclusive(engine);
    int error = tc_claims_set(&engine->claims, protocol, port, on != 0);
    tc_unlock(engine);
    return error;
}

int tc_link_mtu(tc_engine *engine, uint32_t mtu) {
    if (mtu < 68 || mtu > TC_UNIT_MAX)
        return -EINVAL;
    tc_lock_exclusive(engine);
    engine->mtu = mtu;
    tc_unlock(engine);
    return 0;
}

static int take_socket(tc_worker *worker, int fd, uint32_t slot) {
    /* Kernels without it give datagrams one by one, which works as well. */
    int gro = !(worker->engine->options.flags & TC_NO_UDP_GRO);
    (void)setsockopt(fd, IPPROTO_UDP, UDP_GRO, &gro, sizeof gro);
    int error = set_nonblocking(fd);
    return error ? error : tc_worker_watch(worker, fd, slot);
}

int tc_outer_attach(tc_engine *engine, uint32_t index, uint32_t path, int fd4, int fd6) {
    if (index >= engine->options.workers || path >= TC_MAX_PATHS)
        return -EINVAL;
    int fds[2] = {fd4, fd6}, error = 0;
    tc_lock_exclusive(engine);
    tc_worker *worker = &engine->workers[index];
    tc_worker_drop_outer(worker, path);
    for (uint32_t i = 0; i < 2 && !error; i++)
        if (fds[i] >= 0)
            error = take_socket(worker, fds[i], TC_SLOT_OUTER + TC_OUTER_SOCKETS * path + i);
    if (error) {
        unwatch(worker, fd4);
        unwatch(worker, fd6);
    } else {
        worker->outers[path] = (tc_outer){.fd4 = fd4, .fd6 = fd6, .connected = -1};
        worker->attached++;
        tc_uplink_renew(&worker->uplinks[path], &worker->outers[path]);
    }
    tc_unlock(engine);
    return error;
}

int tc_outer_detach(tc_engine *engine, uint32_t path) {
    if (path >= TC_MAX_PATHS)
        return -EINVAL;
    tc_lock_exclusive(engine);
    for (uint32_t i = 0; i < engine->options.workers; i++)
        tc_worker_drop_outer(&engine->workers[i], path);
    tc_unlock(engine);
    return 0;
}

int tc_outer_connect(tc_engine *engine, const tc_endpoint *to, int fd) {
    if (engine->options.workers != 1 || to->path >= TC_MAX_PATHS)
        return -EINVAL; /* which worker should it wake? */
    int error = 0;
    tc_lock_exclusive(engine);
    tc_worker *worker = &engine->workers[0];
    tc_outer *outer = &worker->outers[to->path];
    disconnect(worker, to->path);
    if (fd >= 0) {
        error = (to->family == 4 ? outer->fd4 : outer->fd6) < 0 ? -ENETDOWN : 0;
        if (!error)
            error = take_socket(worker, fd, TC_SLOT_OUTER + TC_OUTER_SOCKETS * to->path + 2);
        if (!error) {
            outer->connected = fd;
            outer->to = *to;
            worker->attached++;
            tc_uplink_renew(&worker->uplinks[to->path], outer);
        }
    }
    tc_unlock(engine);
    return error;
}
