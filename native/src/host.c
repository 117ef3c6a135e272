/* Lending turns, and taking them. */
#include "host.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine.h"
#include "sink.h"

/* A round of so many bytes is bulk, and so many rounds in a row without one are a dialogue. */
enum { BULK = 16384, THIN_ROUNDS = 8 };

void tc_host_init(tc_host *host) {
    pthread_mutex_init(&host->lock, NULL);
    pthread_cond_init(&host->returned, NULL);
    host->epoll = host->fd = -1;
}

void tc_host_free(tc_host *host) {
    if (host->epoll >= 0)
        close(host->epoll);
    pthread_cond_destroy(&host->returned);
    pthread_mutex_destroy(&host->lock);
}

static int watch(const tc_host *host, int how, int fd) {
    struct epoll_event event = {.events = EPOLLIN};
    return epoll_ctl(host->epoll, how, fd, &event) < 0 ? -errno : 0;
}

/* ---- the worker's thread ---- */

static void give_back(tc_worker *worker) {
    tc_host *host = &worker->host;
    (void)watch(host, EPOLL_CTL_DEL, worker->epoll);
    host->lent = false;
    pthread_cond_signal(&host->returned);
}

void tc_host_lend(tc_worker *worker) {
    tc_host *host = &worker->host;
    bool thin = worker->gather.bytes < BULK && !worker->behind;
    host->thin_rounds = thin ? host->thin_rounds + 1 : 0;
    if (host->thin_rounds < THIN_ROUNDS || !atomic_load(&host->offered) ||
        worker->urgency.permitted) /* in real time it is sooner there than the host */
        return;
    pthread_mutex_lock(&host->lock);
    if (host->epoll >= 0 && !watch(host, EPOLL_CTL_ADD, worker->epoll)) {
        host->lent = host->unread = host->undrained = true;
        while (host->lent && atomic_load(&worker->engine->running))
            pthread_cond_wait(&host->returned, &host->lock);
        if (host->lent)
            give_back(worker);
    }
    host->thin_rounds = 0;
    pthread_mutex_unlock(&host->lock);
}

void tc_host_wake(tc_host *host) {
    pthread_mutex_lock(&host->lock);
    pthread_cond_signal(&host->returned);
    pthread_mutex_unlock(&host->lock);
}

/* ---- the host ---- */

int tc_host_enter(tc_engine *engine, int fd, uint32_t flags) {
    tc_host *host = &engine->workers[0].host;
    if (engine->options.workers != 1 || fd < 0)
        return -EINVAL; /* several workers share the link, and what one lends another would read */
    pthread_mutex_lock(&host->lock);
    int error = host->epoll >= 0 ? -EBUSY : 0;
    if (!error) {
        host->epoll = epoll_create1(EPOLL_CLOEXEC);
        error = host->epoll < 0 ? -errno : watch(host, EPOLL_CTL_ADD, fd);
    }
    if (error && error != -EBUSY && host->epoll >= 0) {
        close(host->epoll);
        host->epoll = -1;
    }
    if (!error) {
        host->fd = fd;
        host->flags = flags;
        atomic_store(&host->offered, true);
    }
    int answer = error ? error : host->epoll;
    pthread_mutex_unlock(&host->lock);
    return answer;
}

int tc_host_leave(tc_engine *engine) {
    tc_worker *worker = &engine->workers[0];
    tc_host *host = &worker->host;
    pthread_mutex_lock(&host->lock);
    atomic_store(&host->offered, false);
    if (host->lent)
        give_back(worker);
    if (host->epoll >= 0)
        close(host->epoll);
    host->epoll = host->fd = -1;
    pthread_mutex_unlock(&host->lock);
    return 0;
}

/* One turn of the worker's, with the sink in place of the link. */
static void take_turn(tc_worker *worker, tc_sink *sink) {
    tc_host *host = &worker->host;
    tc_coalescer *coalescer = &worker->receiver.coalescer;
    coalescer->sink = sink;
    bool found = tc_worker_turn(worker);
    /* What had no room went to the link; and where nothing was ready, it may be what is. */
    if (!coalescer->sink || !found)
        host->unread = true;
    coalescer->sink = NULL;
    if (worker->gather.bytes >= BULK || worker->behind)
        give_back(worker);
}

int tc_host_read(tc_engine *engine, uint8_t *buffer, uint32_t size, tc_span *spans,
                 uint32_t count) {
    tc_worker *worker = &engine->workers[0];
    tc_host *host = &worker->host;
    int got = -EAGAIN;
    pthread_mutex_lock(&host->lock);
    if (!host->lent || host->unread)
        got = tc_flow_read(host->fd, host->flags, TC_FLOW_VERIFIED, buffer, size, spans, count);
    if (host->lent && got == -EAGAIN) {
        tc_sink sink = {.buffer = buffer, .size = size, .spans = spans, .most = count};
        host->unread = false;
        take_turn(worker, &sink);
        got = sink.count ? (int)sink.count : -EAGAIN;
    }
    pthread_mutex_unlock(&host->lock);
    return got;
}

int tc_host_keep(tc_engine *engine, int on) {
    tc_worker *worker = &engine->workers[0];
    tc_host *host = &worker->host;
    pthread_mutex_lock(&host->lock);
    if (host->lent && !on)
        give_back(worker);
    bool lent = host->lent;
    pthread_mutex_unlock(&host->lock);
    return lent;
}

int tc_host_write(tc_engine *engine, const uint8_t *data, uint32_t size) {
    tc_worker *worker = &engine->workers[0];
    tc_host *host = &worker->host;
    pthread_mutex_lock(&host->lock);
    bool lent = host->lent;
    if (lent) {
        host->unread |= tc_worker_send(worker, data, size, host->undrained);
        host->undrained = false;
        if (worker->behind)
            give_back(worker); /* it tries again by itself */
    }
    pthread_mutex_unlock(&host->lock);
    return lent ? 0 : -EAGAIN;
}
