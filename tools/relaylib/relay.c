/* Carries UDP datagrams over a path that it makes up; tools/relaylib/relay.py compiles and runs it.
 *
 *   relay LISTENER ADDRESS PORT SEED CLIENTS IDLE  UP...  DOWN...
 *
 * LISTENER is a bound socket that it inherits; what comes in there goes up, to ADDRESS and PORT,
 * through a socket of its client's own, and what comes back there goes down. UP and DOWN are eight
 * numbers each, in the order of `read_link`. On SIGUSR1, SIGTERM and SIGINT it prints one line of
 * JSON; the last two end it.
 *
 * path.c decides what becomes of a datagram, from when it arrived: the kernel stamps it. So
 * whatever the scheduler does to this process, a datagram is at worst sent late, and never counted
 * late. */
#define _GNU_SOURCE
#include "clients.h"
#include "departures.h"
#include "path.h"
#include <inttypes.h>
#include <netdb.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { UP, DOWN, DIRECTIONS };
enum {
    BATCH = 64,
    DATAGRAM_MAX = 65535,
    OPTIONS = 8,
    HEADER_V4 = 20 + 8, /* what a datagram adds to its payload on a link: IP and UDP */
    HEADER_V6 = 40 + 8,
    HELD_MAX = 256 << 20, /* bytes under way, in all */
    LISTENER = -1,
    SIGNALS = -2,
};
static const double STALE = 1e9;    /* ns; a stamp that is older is not believed */
static const double GATHERED = 5e4; /* ns; what is due so soon leaves with what is due now */

struct totals {
    uint64_t sent, failed, reordered;
    uint64_t latest; /* the highest number that has left */
};

static struct link links[DIRECTIONS];
static struct totals totals[DIRECTIONS];
static struct clients clients;
static int listener;
static uint64_t refused;
static size_t held;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void arrive(int direction, int client, uint8_t *data, size_t size, double at) {
    struct link *link = &links[direction];
    struct fate fate = link_enter(link, size, at);
    if (fate.bit >= 0)
        data[fate.bit / 8] ^= (uint8_t)(1 << fate.bit % 8);
    for (int i = 0; i < fate.copies; i++) {
        struct datagram *copy = held + size <= HELD_MAX ? malloc(sizeof *copy + size) : NULL;
        if (!copy) {
            link->dropped++;
            continue;
        }
        copy->size = (uint32_t)size;
        copy->generation = clients.all[client].generation;
        copy->client = client;
        copy->direction = direction;
        memcpy(copy->data, data, size);
        if (departures_push(fate.due[i], copy))
            die("memory");
        held += size;
    }
}

static void flush(int fd, struct mmsghdr *batch, struct datagram **datagrams, unsigned count) {
    /* A connected socket answers a send with what an ICMP message said of an earlier one; the
     * datagram in hand has not been tried then. */
    int errors = 0;
    for (unsigned done = 0; done < count;) {
        int n = sendmmsg(fd, batch + done, count - done, MSG_DONTWAIT);
        struct totals *total = &totals[datagrams[done]->direction];
        if (n > 0) {
            total->sent += (uint64_t)n;
            done += (unsigned)n;
            errors = 0;
        } else if (errors++) {
            total->failed++;
            done++;
            errors = 0;
        }
    }
    for (unsigned i = 0; i < count; i++) {
        held -= datagrams[i]->size;
        free(datagrams[i]);
    }
}

static void depart(double now) {
    static struct mmsghdr batch[BATCH];
    static struct iovec parts[BATCH];
    struct datagram *datagrams[BATCH];
    unsigned count = 0;
    int fd = -1;
    for (const struct departure *first; (first = departures_first()) && first->due <= now;) {
        struct departure departure = departures_pop();
        struct datagram *datagram = departure.datagram;
        struct client *client = &clients.all[datagram->client];
        struct totals *total = &totals[datagram->direction];
        if (client->generation != datagram->generation) {
            total->failed++;
            held -= datagram->size;
            free(datagram);
            continue;
        }
        if (departure.number < total->latest)
            total->reordered++;
        else
            total->latest = departure.number;
        int to = datagram->direction == DOWN ? listener : client->fd;
        if (count == BATCH || to != fd) {
            flush(fd, batch, datagrams, count);
            count = 0;
        }
        fd = to;
        parts[count] = (struct iovec){datagram->data, datagram->size};
        batch[count].msg_hdr = (struct msghdr){.msg_iov = &parts[count], .msg_iovlen = 1};
        if (datagram->direction == DOWN) {
            batch[count].msg_hdr.msg_name = &client->address;
            batch[count].msg_hdr.msg_namelen = client->length;
            batch[count].msg_hdr.msg_control = client->local;
            batch[count].msg_hdr.msg_controllen = client->local_length;
        }
        datagrams[count++] = datagram;
    }
    flush(fd, batch, datagrams, count);
}

/* When the kernel received a datagram, on the clock that all else here uses. */
static double arrival(struct msghdr *message, double now, double behind) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
            double at = (double)stamp.tv_sec * 1e9 + (double)stamp.tv_nsec - behind;
            return at > now || at < now - STALE ? now : at; /* the clock may be set */
        }
    return now;
}

static void receive(int source) {
    static uint8_t data[BATCH][DATAGRAM_MAX];
    static struct sockaddr_storage addresses[BATCH];
    static char control[BATCH][CMSG_SPACE(sizeof(struct timespec)) +
                               CMSG_SPACE(sizeof(struct in6_pktinfo))];
    static struct iovec parts[BATCH];
    static struct mmsghdr batch[BATCH];
    static int used = BATCH;
    for (; used; used--) { /* what the last call has changed */
        int i = used - 1;
        parts[i] = (struct iovec){data[i], DATAGRAM_MAX};
        batch[i].msg_hdr = (struct msghdr){&addresses[i], sizeof addresses[i], &parts[i], 1,
                                           control[i],    sizeof control[i],   0};
    }
    int fd = source == LISTENER ? listener : clients.all[source].fd;
    int count = recvmmsg(fd, batch, BATCH, MSG_DONTWAIT, NULL);
    double now = clock_ns(CLOCK_MONOTONIC), behind = clock_ns(CLOCK_REALTIME) - now;
    used = count > 0 ? count : 0;
    for (int i = 0; i < count; i++) {
        struct msghdr *message = &batch[i].msg_hdr;
        int client = source;
        if (source == LISTENER)
            client = clients_find(&clients, &addresses[i], message->msg_namelen, now);
        if (client < 0) {
            refused++;
            continue;
        }
        clients.all[client].seen = now;
        if (source == LISTENER)
            client_note_local(&clients.all[client], message);
        arrive(source == LISTENER ? UP : DOWN, client, data[i], batch[i].msg_len,
               arrival(message, now, behind));
    }
}

static void report_link(const char *name, int direction) {
    const struct link *link = &links[direction];
    const struct totals *total = &totals[direction];
    double span = link->seen - link->first;
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        {"datagrams", link->datagrams},
        {"bytes", link->bytes},
        {"lost", link->lost},
        {"dropped", link->dropped},
        {"reordered", total->reordered},
        {"duplicated", link->duplicated},
        {"corrupted", link->corrupted},
        {"sent", total->sent},
        {"failed", total->failed},
        {"queue_highest", link->queue_highest},
    };
    printf("\"%s\": {", name);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        printf("\"%s\": %" PRIu64 ", ", counts[i].name, counts[i].value);
    printf("\"queue_average\": %.1f, \"seconds\": %.6f}, ", span > 0 ? link->area / span : 0.0,
           span / 1e9);
}

static void report(void) {
    uint64_t overruns = clients.overrun + socket_overrun(listener);
    int open = 0;
    for (int i = 0; i < clients.most; i++)
        if (clients.all[i].fd >= 0) {
            overruns += socket_overrun(clients.all[i].fd);
            open++;
        }
    printf("{");
    report_link("up", UP);
    report_link("down", DOWN);
    printf("\"clients\": %d, \"clients_seen\": %" PRIu64 ", \"refused\": %" PRIu64
           ", \"overrun\": %" PRIu64 "}\n",
           open, clients.seen, refused, overruns);
    fflush(stdout);
}

static void read_link(struct link *link, char **words, uint64_t seed, int family) {
    double *fields[] = {&link->options.delay,     &link->options.jitter, &link->options.loss,
                        &link->options.byte_ns,   &link->options.queue,  &link->options.reorder,
                        &link->options.duplicate, &link->options.corrupt};
    for (size_t i = 0; i < OPTIONS; i++)
        *fields[i] = strtod(words[i], NULL);
    link->seed = seed;
    link->header = family == AF_INET6 ? HEADER_V6 : HEADER_V4;
}

static void set_up(char **words) {
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST}, *found;
    if (getaddrinfo(words[1], words[2], &hints, &found)) {
        fprintf(stderr, "%s port %s: not an address\n", words[1], words[2]);
        exit(2);
    }
    memcpy(&clients.target, found->ai_addr, found->ai_addrlen);
    clients.target_length = found->ai_addrlen;
    freeaddrinfo(found);
    listener = atoi(words[0]);
    clients.most = atoi(words[4]);
    clients.idle = strtod(words[5], NULL);
    clients.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (clients.epoll < 0 || clients_set_up(&clients))
        die("relay");
    uint64_t seed = strtoull(words[3], NULL, 10);
    read_link(&links[UP], words + 6, seed, clients.target.ss_family);
    read_link(&links[DOWN], words + 6 + OPTIONS, ~seed, clients.target.ss_family);
}

int main(int argc, char **argv) {
    if (argc != 1 + 6 + 2 * OPTIONS) {
        fputs("relay: run by tools/relay\n", stderr);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1);
    /* A wire does not wait for a processor; where that is not permitted, it does. */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
    set_up(argv + 1);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    socket_prepare(listener);
    int on = 1;
    setsockopt(listener, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
    setsockopt(listener, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
    if (socket_watch(clients.epoll, listener, LISTENER) ||
        socket_watch(clients.epoll, signal_fd, SIGNALS))
        die("epoll");
    puts("ready");
    fflush(stdout);
    double next_sweep = 0;
    for (;;) {
        double now = clock_ns(CLOCK_MONOTONIC);
        depart(now + GATHERED);
        if (now >= next_sweep) {
            clients_sweep(&clients, now);
            next_sweep = now + clients.idle / 4;
        }
        const struct departure *first = departures_first();
        double until = first && first->due < next_sweep ? first->due : next_sweep;
        double rest = until - clock_ns(CLOCK_MONOTONIC);
        struct timespec patience = {0};
        if (rest > 0) {
            patience.tv_sec = (time_t)(rest / 1e9);
            patience.tv_nsec = (long)(rest - (double)patience.tv_sec * 1e9);
        }
        struct epoll_event events[BATCH];
        int count = epoll_pwait2(clients.epoll, events, BATCH, &patience, NULL);
        for (int i = 0; i < count; i++) {
            int what = (int)(int64_t)events[i].data.u64;
            struct signalfd_siginfo info;
            if (what != SIGNALS) {
                receive(what);
            } else if (read(signal_fd, &info, sizeof info) == sizeof info) {
                report();
                if (info.ssi_signo != SIGUSR1)
                    return 0;
            }
        }
    }
}
