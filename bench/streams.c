/* Both ends of TCP load for bench/netstack.py: many connections and no cost to speak of.
 *
 *   streams serve ADDRESS PORT                               runs until it is ended
 *   streams down PROXY ADDRESS PORT SECONDS                  prints: bytes seconds
 *   streams up PROXY ADDRESS PORT SECONDS                    prints: bytes seconds
 *   streams rate PROXY ADDRESS PORT AT_ONCE SECONDS MOST     prints: done failed seconds
 *   streams hold PROXY ADDRESS PORT COUNT                    prints: open failed, then waits
 *   streams stall PROXY ADDRESS PORT COUNT                   prints: bytes, then waits
 *
 * PROXY is a SOCKS5 proxy on loopback, by its port, or 0 for a direct connection. The server
 * listens on PORT and the ports after it: one that swallows what comes and answers its end with
 * the number of bytes, one that sends for ever, one that never reads, and ANSWERS that echo. A
 * connection counts once a byte has gone to the far end and come back through it. What waits does
 * so until standard input ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SWALLOW, SOURCE, DEAF, ECHO, ANSWERS = 16 }; /* ports from the first on */
enum { EVENTS = 256, CHUNK = 1 << 20, FDS = 1 << 17, PATIENCE = 30, STILL = 1 };

static uint8_t memory[CHUNK];
static struct sockaddr_in target, proxy;
static int epoll;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void watch(int fd, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, how, fd, &event))
        die("epoll_ctl");
}

static int make_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* ---- the far end ---- */

static struct {
    int kind; /* 0: not open, else 1 + SWALLOW and so on; negative for what listens */
    uint64_t bytes;
} served[FDS];

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int kind = -served[listener].kind - 1, one = 1;
        if (fd >= FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        served[fd].kind = kind + 1;
        served[fd].bytes = 0;
        watch(fd, kind == SOURCE ? EPOLLOUT : kind == DEAF ? 0 : EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* Whether the connection goes on. */
static int serve(int fd, int kind) {
    ssize_t size;
    if (kind == SOURCE) {
        size = send(fd, memory, CHUNK, MSG_NOSIGNAL);
        return size >= 0 || errno == EAGAIN;
    }
    /* MSG_TRUNC: TCP gives the bytes up without copying them. */
    size = recv(fd, memory, CHUNK, kind == SWALLOW ? MSG_TRUNC : 0);
    if (size < 0)
        return errno == EAGAIN;
    if (!size) {
        if (kind == SWALLOW)
            send(fd, &served[fd].bytes, sizeof served[fd].bytes, MSG_NOSIGNAL);
        return 0;
    }
    served[fd].bytes += (uint64_t)size;
    return kind == SWALLOW || send(fd, memory, (size_t)size, MSG_NOSIGNAL) == size;
}

static _Noreturn void run_server(int first) {
    struct epoll_event events[EVENTS];
    for (int i = 0; i < ECHO + ANSWERS; i++) {
        int fd = make_socket(), one = 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        target.sin_port = htons((uint16_t)(first + i));
        if (bind(fd, (struct sockaddr *)&target, sizeof target) || listen(fd, 4096))
            die("listen");
        served[fd].kind = -1 - (i < ECHO ? i : ECHO);
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (served[fd].kind < 0) {
                accept_all(fd);
            } else if (events[i].events & (EPOLLERR | EPOLLHUP) ||
                       !serve(fd, served[fd].kind - 1)) {
                served[fd].kind = 0;
                close(fd);
            }
        }
    }
}

/* ---- one connection of the near end ---- */

enum state { CLOSED, CONNECTING, GREETED, REQUESTED, READY, ASKED, OPEN };
static enum state states[FDS];
static int ports[FDS];

static void ready(int fd, int ask) {
    states[fd] = READY;
    if (ask) {
        states[fd] = ASKED;
        if (send(fd, "x", 1, MSG_NOSIGNAL) != 1)
            states[fd] = CLOSED;
    }
}

static int begin(int port) {
    struct sockaddr_in to = proxy.sin_port ? proxy : target;
    int fd = make_socket();
    if (!proxy.sin_port)
        to.sin_port = htons((uint16_t)port);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    states[fd] = CONNECTING;
    ports[fd] = port;
    watch(fd, EPOLLOUT, EPOLL_CTL_ADD);
    return fd;
}

/* Takes a connection as far as it goes now; CLOSED where it failed. Answers of a few bytes come
 * whole on loopback. */
static enum state step(int fd, uint32_t events, int ask) {
    uint8_t answer[64];
    if (states[fd] == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error || events & (EPOLLERR | EPOLLHUP))
            return states[fd] = CLOSED;
        watch(fd, EPOLLIN, EPOLL_CTL_MOD);
        if (!proxy.sin_port)
            ready(fd, ask);
        else
            states[fd] = send(fd, "\5\1\0", 3, MSG_NOSIGNAL) == 3 ? GREETED : CLOSED;
        return states[fd];
    }
    ssize_t size = recv(fd, answer, states[fd] == REQUESTED ? 10 : sizeof answer, 0);
    if (size < 0 && errno == EAGAIN)
        return states[fd];
    if (states[fd] == GREETED && size == 2 && !answer[1]) {
        uint8_t request[10] = {5, 1, 0, 1};
        uint16_t port = htons((uint16_t)ports[fd]);
        memcpy(request + 4, &target.sin_addr, 4);
        memcpy(request + 8, &port, 2);
        states[fd] = send(fd, request, 10, MSG_NOSIGNAL) == 10 ? REQUESTED : CLOSED;
    } else if (states[fd] == REQUESTED && size == 10 && !answer[1]) {
        ready(fd, ask);
    } else {
        states[fd] = states[fd] == ASKED && size == 1 ? OPEN : CLOSED;
    }
    return states[fd];
}

static int connect_one(int port) {
    struct epoll_event event;
    int fd = begin(port);
    while (fd >= 0 && states[fd] != READY) {
        if (epoll_wait(epoll, &event, 1, PATIENCE * 1000) != 1 ||
            step(fd, event.events, 0) == CLOSED) {
            fprintf(stderr, "no connection to port %d\n", port);
            exit(1);
        }
    }
    if (fd < 0)
        die("connect");
    return fd;
}

/* ---- what is measured ---- */

static int run_down(int first, double duration) {
    int fd = connect_one(first + SOURCE);
    struct epoll_event event;
    uint64_t bytes = 0;
    double begun = seconds(), now;
    while ((now = seconds()) - begun < duration) {
        if (epoll_wait(epoll, &event, 1, PATIENCE * 1000) != 1)
            return 1;
        ssize_t size = recv(fd, memory, CHUNK, MSG_TRUNC);
        if (!size || (size < 0 && errno != EAGAIN)) {
            fputs("the stream has ended\n", stderr);
            return 1;
        }
        bytes += size > 0 ? (uint64_t)size : 0;
    }
    printf("%llu %.6f\n", (unsigned long long)bytes, now - begun);
    return 0;
}

static int run_up(int first, double duration) {
    int fd = connect_one(first + SWALLOW);
    struct epoll_event event;
    uint64_t bytes = 0, came = 0;
    double begun = seconds();
    watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
    while (seconds() - begun < duration) {
        if (epoll_wait(epoll, &event, 1, PATIENCE * 1000) != 1)
            return 1;
        ssize_t size = send(fd, memory, CHUNK, MSG_NOSIGNAL);
        if (size < 0 && errno != EAGAIN)
            die("send");
        bytes += size > 0 ? (uint64_t)size : 0;
    }
    /* Only what has come to the far end counts, and the time until all of it has. */
    shutdown(fd, SHUT_WR);
    watch(fd, EPOLLIN, EPOLL_CTL_MOD);
    if (epoll_wait(epoll, &event, 1, PATIENCE * 1000) != 1 ||
        recv(fd, &came, sizeof came, 0) != sizeof came || came != bytes) {
        fprintf(stderr, "%llu bytes left, %llu came\n", (unsigned long long)bytes,
                (unsigned long long)came);
        return 1;
    }
    printf("%llu %.6f\n", (unsigned long long)bytes, seconds() - begun);
    return 0;
}

/* Keeps `at_once` connections going until the time, or `most` of them, is over; with `keep` they
 * stay open. */
static void many(int first, int at_once, double duration, long most, int keep, long *done,
                 long *failed) {
    struct epoll_event events[EVENTS];
    long begun = 0, going = 0;
    double end = seconds() + duration;
    *done = *failed = 0;
    while (going || (begun < most && seconds() < end)) {
        while (going < at_once && begun < most && seconds() < end) {
            int fd = begin(first + ECHO + (int)(begun % ANSWERS));
            begun++;
            if (fd < 0)
                ++*failed;
            else
                going++;
        }
        int count = epoll_wait(epoll, events, EVENTS, PATIENCE * 1000);
        if (count <= 0 && going) {
            *failed += going;
            return;
        }
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            enum state state = states[fd] == OPEN ? CLOSED : step(fd, events[i].events, 1);
            if (state != OPEN && state != CLOSED)
                continue;
            if (state == OPEN)
                ++*done;
            else
                ++*failed;
            going--;
            if (state == OPEN && keep) {
                watch(fd, 0, EPOLL_CTL_MOD);
            } else {
                states[fd] = CLOSED;
                close(fd);
            }
        }
    }
}

static void wait_for_end(void) {
    char byte;
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
}

/* Writes into connections that nobody reads at the far end, until none has taken a byte for STILL
 * seconds. */
static int run_stall(int first, int count) {
    struct epoll_event events[EVENTS];
    uint64_t bytes = 0;
    for (int i = 0; i < count; i++)
        connect_one(first + DEAF);
    for (int fd = 0; fd < FDS; fd++)
        if (states[fd] == READY)
            watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
    for (int ready; (ready = epoll_wait(epoll, events, EVENTS, STILL * 1000)) > 0;) {
        for (int i = 0; i < ready; i++) {
            ssize_t size = send(events[i].data.fd, memory, 1 << 16, MSG_NOSIGNAL);
            bytes += size > 0 ? (uint64_t)size : 0;
        }
    }
    printf("%llu\n", (unsigned long long)bytes);
    wait_for_end();
    return 0;
}

static int usage(void) {
    fputs("usage: see the head of streams.c\n", stderr);
    return 2;
}

int main(int count, char **words) {
    struct rlimit files = {FDS, FDS};
    if (setrlimit(RLIMIT_NOFILE, &files)) {
        getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    int serves = count == 4 && !strcmp(words[1], "serve");
    if (!serves && count < 6)
        return usage();
    const char *address = words[serves ? 2 : 3];
    int first = atoi(words[serves ? 3 : 4]);
    target.sin_family = proxy.sin_family = AF_INET;
    proxy.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    proxy.sin_port = htons((uint16_t)(serves ? 0 : atoi(words[2])));
    if (inet_pton(AF_INET, address, &target.sin_addr) != 1)
        return usage();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (serves)
        run_server(first);
    if (!strcmp(words[1], "down"))
        return run_down(first, atof(words[5]));
    if (!strcmp(words[1], "up"))
        return run_up(first, atof(words[5]));
    if (!strcmp(words[1], "stall"))
        return run_stall(first, atoi(words[5]));
    long done, failed;
    if (!strcmp(words[1], "hold")) {
        many(first, 64, 1e9, atol(words[5]), 1, &done, &failed);
        printf("%ld %ld\n", done, failed);
        wait_for_end();
        return 0;
    }
    if (strcmp(words[1], "rate") || count != 8)
        return usage();
    double begun = seconds();
    many(first, atoi(words[5]), atof(words[6]), atol(words[7]), 0, &done, &failed);
    printf("%ld %ld %.6f\n", done, failed, seconds() - begun);
    return 0;
}
