/* Sends and counts small UDP datagrams, many a system call, for bench/measures.py.
 *
 *   datagrams send ADDRESS PORT RATE SECONDS BYTES     prints: sent seconds
 *   datagrams count ADDRESS PORT                       prints: received
 *
 * Every program that generates load one datagram a call becomes the bottleneck itself, so the
 * sender hands BATCH of them to sendmmsg and paces itself by the clock: it sends what is due and
 * then sleeps a little, never spins, since the tunnel needs the processor. The receiver counts
 * datagrams until an empty one arrives, which the sender repeats at its end, or nothing has come
 * for a while. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, PAYLOAD_MAX = 2048, BUFFER = 4 << 20, NAP = 50000, PATIENCE = 3 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int open_socket(const char *host, const char *port, int passive) {
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM,
                             .ai_flags = AI_NUMERICHOST | (passive ? AI_PASSIVE : 0)};
    struct addrinfo *found;
    int error = getaddrinfo(host, port, &hints, &found);
    if (error) {
        fprintf(stderr, "%s port %s: %s\n", host, port, gai_strerror(error));
        exit(2);
    }
    int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    int size = BUFFER;
    /* FORCE goes over the system's limit and needs privilege; without it, as much as allowed. */
    if (setsockopt(fd, SOL_SOCKET, passive ? SO_RCVBUFFORCE : SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, passive ? SO_RCVBUF : SO_SNDBUF, &size, sizeof size);
    if ((passive ? bind : connect)(fd, found->ai_addr, found->ai_addrlen))
        die(passive ? "bind" : "connect");
    freeaddrinfo(found);
    return fd;
}

static int send_paced(int fd, double rate, double duration, size_t bytes) {
    static uint8_t payload[PAYLOAD_MAX];
    struct iovec part = {.iov_base = payload, .iov_len = bytes};
    struct mmsghdr batch[BATCH];
    memset(batch, 0, sizeof batch);
    for (int i = 0; i < BATCH; i++) {
        batch[i].msg_hdr.msg_iov = &part;
        batch[i].msg_hdr.msg_iovlen = 1;
    }
    /* After a stall only a hundredth of a second is made up for; the rest is skipped, since a burst
     * of all that was missed would measure how deep the queues are. */
    const uint64_t burst = (uint64_t)(rate / 100) + BATCH;
    uint64_t sent = 0, skipped = 0;
    double start = seconds(), now = start;
    while (now - start < duration) {
        uint64_t due = (uint64_t)((now - start) * rate), done = sent + skipped;
        uint64_t want = due > done ? due - done : 0;
        if (want > burst) {
            skipped += want - burst;
            want = burst;
        }
        while (want) {
            int n = sendmmsg(fd, batch, want < BATCH ? (unsigned)want : BATCH, 0);
            if (n < 0) {
                if (errno == ENOBUFS || errno == ECONNREFUSED || errno == EINTR)
                    continue;
                die("sendmmsg");
            }
            sent += (uint64_t)n;
            want -= (uint64_t)n;
        }
        struct timespec nap = {.tv_nsec = NAP};
        nanosleep(&nap, NULL);
        now = seconds();
    }
    double took = seconds() - start;
    for (int i = 0; i < 20; i++) {
        struct timespec pause = {.tv_nsec = 20000000};
        nanosleep(&pause, NULL);
        send(fd, payload, 0, 0);
    }
    printf("%llu %.6f\n", (unsigned long long)sent, took);
    return 0;
}

static int count(int fd) {
    static uint8_t payload[BATCH][PAYLOAD_MAX];
    struct iovec parts[BATCH];
    struct mmsghdr batch[BATCH];
    memset(batch, 0, sizeof batch);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){.iov_base = payload[i], .iov_len = PAYLOAD_MAX};
        batch[i].msg_hdr.msg_iov = &parts[i];
        batch[i].msg_hdr.msg_iovlen = 1;
    }
    struct timeval patience = {.tv_sec = PATIENCE};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    puts("ready");
    fflush(stdout);
    uint64_t received = 0;
    for (int end = 0; !end;) {
        int n = recvmmsg(fd, batch, BATCH, MSG_WAITFORONE, NULL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++) {
            if (batch[i].msg_len)
                received++;
            else
                end = 1;
        }
    }
    printf("%llu\n", (unsigned long long)received);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 7 && !strcmp(argv[1], "send")) {
        unsigned long bytes = strtoul(argv[6], NULL, 10);
        if (bytes == 0 || bytes > PAYLOAD_MAX) {
            fprintf(stderr, "BYTES: 1 to %d\n", PAYLOAD_MAX);
            return 2;
        }
        return send_paced(open_socket(argv[2], argv[3], 0), atof(argv[4]), atof(argv[5]), bytes);
    }
    if (argc == 4 && !strcmp(argv[1], "count"))
        return count(open_socket(argv[2], argv[3], 1));
    fprintf(stderr, "usage: datagrams send ADDRESS PORT RATE SECONDS BYTES\n"
                    "       datagrams count ADDRESS PORT\n");
    return 2;
}
