/* Two engines in one process, back to back: links are seqpacket pairs, the outside is loopback UDP.
 *
 *    feeder --> link a.i --> engine A ==UDP==> engine B --> link b.j --> reader     (and back)
 *
 * Every flow is a byte stream in TCP-shaped packets or super-segments. Readers check each packet's
 * checksums, that the stream arrives complete and in order, and each byte of it, while the main
 * thread installs new sessions all the time and roams. Run under the thread and address sanitizers.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checksum.h"
#include "link.h"
#include "must.h"
#include "packet.h"
#include "segment.h"

#define MAX 4
/* Windows are small enough that what is on its way fits the default socket buffers: nothing may be
 * lost. */
enum { HEADERS = 40, SEGMENT = 1300, WINDOW = 10 * SEGMENT, SUPER = 6 };

typedef struct {
    const char *name;
    uint32_t workers, flags, link_flags;
} variant;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint32_t received; /* bytes of the stream */
    uint8_t *seen;     /* which ones */
} flow;

typedef struct {
    tc_engine *engine;
    int peer;
    int links[MAX]; /* our ends */
    int inner[MAX]; /* the engine's */
    int outer[MAX];
    uint8_t address;
    bool in_order;
    flow flows[MAX]; /* that this side receives */
    pthread_t feeders[MAX], readers[MAX];
} side;

typedef struct {
    const variant *v;
    side *from, *to;
    uint32_t index, total;
} job;

static uint8_t expected(uint32_t index, uint32_t offset) {
    return (uint8_t)(offset * 7 + (offset >> 8) + index);
}

/* ---- packets ---- */

static uint16_t checksum(uint64_t sum) {
    return (uint16_t)~tc_checksum_fold(sum);
}

static void make_packet(uint8_t *p, const job *j, uint32_t offset, uint32_t payload, bool open) {
    memset(p, 0, HEADERS);
    p[0] = 0x45;
    tc_put_be16(p + 2, (uint16_t)(HEADERS + payload));
    p[8] = 64;
    p[9] = TC_PROTO_TCP;
    p[12] = p[16] = 10;
    p[15] = j->from->address;
    p[19] = j->to->address;
    uint16_t sum = checksum(tc_checksum_add(0, p, 20));
    memcpy(p + 10, &sum, 2);
    uint8_t *tcp = p + 20;
    tc_put_be16(tcp, (uint16_t)(1000 + j->index));
    tc_put_be16(tcp + 2, 80);
    tc_put_be32(tcp + 4, offset);
    tcp[12] = 0x50;
    tcp[13] = 0x10;
    tc_put_be16(tcp + 14, 8192);
    for (uint32_t i = 0; i < payload; i++)
        p[HEADERS + i] = expected(j->index, offset + i);
    uint64_t pseudo = tc_checksum_pseudo(4, p + 12, p + 16, TC_PROTO_TCP, 20 + payload);
    sum = open ? tc_checksum_fold(pseudo) : checksum(tc_checksum_add(pseudo, tcp, 20 + payload));
    memcpy(tcp + 16, &sum, 2);
}

static void *feed(void *argument) {
    job *j = argument;
    flow *f = &j->to->flows[j->index];
    bool vnet = j->v->link_flags & TC_LINK_VNET_HDR;
    tc_link link = {.fd = j->from->links[j->index], .flags = j->v->link_flags};
    uint8_t *packet = malloc(HEADERS + SUPER * SEGMENT);
    for (uint32_t offset = 0; offset < j->total;) {
        pthread_mutex_lock(&f->lock);
        while (offset - f->received > WINDOW)
            pthread_cond_wait(&f->moved, &f->lock);
        pthread_mutex_unlock(&f->lock);
        uint32_t payload = vnet && offset % 3 ? SUPER * SEGMENT - offset % 500 : SEGMENT;
        if (payload > j->total - offset)
            payload = j->total - offset;
        struct virtio_net_hdr header = {
            .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 20, .csum_offset = 16};
        if (payload > SEGMENT) {
            header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
            header.gso_size = SEGMENT;
        }
        make_packet(packet, j, offset, payload, vnet);
        MUST(tc_link_write(&link, &header, packet, HEADERS + payload) == 0);
        offset += payload;
    }
    free(packet);
    return NULL;
}

static void take(side *s, const uint8_t *p, uint32_t length) {
    const uint8_t *tcp = p + 20;
    MUST(length > HEADERS && tc_packet_total(p, length) == length);
    MUST(tc_checksum_fold(tc_checksum_add(0, p, 20)) == 0xffff);
    uint64_t sum = tc_checksum_pseudo(4, p + 12, p + 16, TC_PROTO_TCP, length - 20);
    MUST(tc_checksum_fold(tc_checksum_add(sum, tcp, length - 20)) == 0xffff);
    uint32_t index = tc_get_be16(tcp) - 1000u, offset = tc_get_be32(tcp + 4);
    MUST(index < MAX);
    flow *f = &s->flows[index];
    pthread_mutex_lock(&f->lock);
    MUST(!s->in_order || offset == f->received);
    for (uint32_t i = 0; i < length - HEADERS; i++) {
        MUST(p[HEADERS + i] == expected(index, offset + i));
        MUST(!f->seen[offset + i]);
        f->seen[offset + i] = 1;
    }
    f->received += length - HEADERS;
    pthread_cond_broadcast(&f->moved);
    pthread_mutex_unlock(&f->lock);
}

static void *drain(void *argument) {
    job *j = argument;
    tc_link link = {.fd = j->to->links[j->index], .flags = j->v->link_flags};
    uint8_t *buffer = malloc(TC_LINK_READ_BYTES), *out = malloc(TC_UNIT_MAX);
    for (;;) {
        tc_unit unit;
        struct pollfd ready = {.fd = link.fd, .events = POLLIN};
        poll(&ready, 1, -1);
        int error = tc_link_read(&link, buffer, &unit);
        if (error == -EPIPE)
            break;
        if (error == -EAGAIN)
            continue;
        MUST(error == 0);
        for (uint32_t length; (length = tc_unit_next(&unit, out)) > 0;)
            take(j->to, out, length);
    }
    free(buffer);
    free(out);
    return NULL;
}

/* ---- engines ---- */

static int udp(uint16_t *port) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(*port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    MUST(!setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on));
    MUST(!setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on));
    MUST(!setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof on));
    MUST(!bind(fd, (struct sockaddr *)&at, size));
    MUST(!getsockname(fd, (struct sockaddr *)&at, &size));
    *port = ntohs(at.sin_port);
    return fd;
}

static uint16_t open_side(side *s, const variant *v, uint8_t address, bool shared, uint32_t total) {
    memset(s, 0, sizeof *s);
    s->address = address;
    s->in_order = shared;
    tc_options options = {.workers = v->workers, .flags = v->flags, .ring_slots = 64};
    MUST(!tc_engine_new(&options, &s->engine));
    uint16_t port = 0;
    for (uint32_t i = 0; i < v->workers; i++) {
        int pair[2];
        MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
        s->links[i] = pair[0];
        s->inner[i] = pair[1];
        uint16_t own = shared ? port : 0;
        s->outer[i] = udp(&own);
        port = own;
        MUST(!tc_link_attach(s->engine, i, pair[1], v->link_flags, 1420));
        MUST(!tc_outer_attach(s->engine, i, 0, s->outer[i], -1));
        s->flows[i].seen = calloc(1, total);
        pthread_mutex_init(&s->flows[i].lock, NULL);
        pthread_cond_init(&s->flows[i].moved, NULL);
    }
    s->peer = tc_peer_add(s->engine);
    MUST(s->peer >= 0);
    return port;
}

static void connect_side(side *s, const side *other, uint16_t port) {
    tc_endpoint to = {.family = 4, .port = port, .address = {127, 0, 0, 1}};
    uint8_t inner[4] = {10, 0, 0, other->address};
    MUST(!tc_peer_endpoint(s->engine, (uint32_t)s->peer, &to));
    MUST(!tc_allowed_add(s->engine, (uint32_t)s->peer, 4, inner, 32));
    MUST(!tc_engine_start(s->engine));
}

static void close_side(side *s, const variant *v) {
    tc_engine_free(s->engine);
    for (uint32_t i = 0; i < v->workers; i++) {
        free(s->flows[i].seen);
        close(s->links[i]);
        close(s->inner[i]);
        close(s->outer[i]);
    }
}

/* The responder first, then the initiator, as a handshake would have it. */
static void new_session(side *initiator, side *responder, uint32_t index) {
    tc_keypair keys = {.local_index = index, .remote_index = index + 1};
    for (int i = 0; i < 32; i++) {
        keys.send_key[i] = (uint8_t)rand();
        keys.receive_key[i] = (uint8_t)rand();
    }
    MUST(!tc_peer_install(responder->engine, (uint32_t)responder->peer, &keys));
    tc_keypair other = {.local_index = index + 1, .remote_index = index, .initiator = 1};
    memcpy(other.send_key, keys.receive_key, 32);
    memcpy(other.receive_key, keys.send_key, 32);
    MUST(!tc_peer_install(initiator->engine, (uint32_t)initiator->peer, &other));
    MUST(!tc_peer_flush(initiator->engine, (uint32_t)initiator->peer));
}

static bool confirmed(side *s) {
    bool seen = false;
    tc_event events[16];
    for (int n; (n = tc_engine_events(s->engine, events, 16)) > 0;)
        for (int i = 0; i < n; i++)
            seen |= events[i].kind == TC_EVENT_KEY_CONFIRMED;
    return seen;
}

static void wait_confirmed(side *s) {
    while (!confirmed(s)) {
        struct pollfd ready = {.fd = tc_engine_event_fd(s->engine), .events = POLLIN};
        MUST(poll(&ready, 1, 20000) == 1);
    }
}

static uint64_t counter(side *s, const char *name) {
    uint64_t values[TC_COUNTERS];
    int n = tc_engine_counters(s->engine, values, TC_COUNTERS);
    for (int i = 0; i < n; i++)
        if (!strcmp(tc_counter_name((uint32_t)i), name))
            return values[i];
    abort();
}

static bool finished(side *s, const variant *v, uint32_t total) {
    bool all = true;
    for (uint32_t i = 0; i < v->workers; i++) {
        pthread_mutex_lock(&s->flows[i].lock);
        all &= s->flows[i].received == total;
        pthread_mutex_unlock(&s->flows[i].lock);
    }
    return all;
}

/* Until no packet can be on its way that was sent before this call: the session before the last is
 * given up at the next one. */
static void wait_progress(side *s, const variant *v, uint32_t total) {
    for (uint32_t i = 0; i < v->workers; i++) {
        flow *f = &s->flows[i];
        pthread_mutex_lock(&f->lock);
        uint32_t before = f->received;
        while (f->received < total && f->received - before <= WINDOW + SUPER * SEGMENT)
            pthread_cond_wait(&f->moved, &f->lock);
        pthread_mutex_unlock(&f->lock);
    }
}

static void run(const variant *v, uint32_t total) {
    side a, b;
    uint16_t port_a = open_side(&a, v, 1, false, total), port_b = open_side(&b, v, 2, true, total);
    connect_side(&a, &b, port_b);
    connect_side(&b, &a, port_a);
    job jobs[2][MAX];
    uint32_t index = 1, sessions = 0;
    new_session(&a, &b, index);
    wait_confirmed(&b);
    for (uint32_t i = 0; i < v->workers; i++) {
        jobs[0][i] = (job){.v = v, .from = &a, .to = &b, .index = i, .total = total};
        jobs[1][i] = (job){.v = v, .from = &b, .to = &a, .index = i, .total = total};
        for (int d = 0; d < 2; d++) {
            job *j = &jobs[d][i];
            MUST(!pthread_create(&j->to->readers[i], NULL, drain, j));
            MUST(!pthread_create(&j->from->feeders[i], NULL, feed, j));
        }
    }
    /* Both roles take turns. */
    while (!finished(&a, v, total) || !finished(&b, v, total)) {
        index += 2;
        sessions++;
        if (sessions % 2) {
            new_session(&b, &a, index);
            wait_confirmed(&a);
        } else {
            new_session(&a, &b, index);
            wait_confirmed(&b);
        }
        wait_progress(&a, v, total);
        wait_progress(&b, v, total);
    }
    for (uint32_t i = 0; i < v->workers; i++) {
        pthread_join(a.feeders[i], NULL);
        pthread_join(b.feeders[i], NULL);
        shutdown(a.inner[i], SHUT_RDWR);
        shutdown(b.inner[i], SHUT_RDWR);
        pthread_join(a.readers[i], NULL);
        pthread_join(b.readers[i], NULL);
    }
    MUST(counter(&a, "rx_auth_failed") == 0 && counter(&b, "rx_replayed") == 0);
    printf("%s, %u workers: %u sessions, %llu packets joined, %llu messages for %llu packets\n",
           v->name, v->workers, sessions, (unsigned long long)counter(&b, "rx_coalesced"),
           (unsigned long long)counter(&a, "tx_messages"),
           (unsigned long long)counter(&a, "tx_packets"));
    close_side(&a, v);
    close_side(&b, v);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    uint32_t total = (argc > 1 ? (uint32_t)atoi(argv[1]) : 2000) * SEGMENT;
    const uint32_t plain =
        TC_NO_UDP_SEGMENT | TC_NO_UDP_GRO | TC_NO_COALESCE_TCP | TC_NO_COALESCE_UDP;
    const variant variants[] = {
        {"offloads", 1, 0, TC_LINK_VNET_HDR | TC_LINK_USO},
        {"offloads", 2, 0, TC_LINK_VNET_HDR | TC_LINK_USO},
        {"offloads", 4, 0, TC_LINK_VNET_HDR},
        {"no offloads", 1, plain, 0},
        {"no offloads", 2, plain, TC_LINK_VNET_HDR},
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        run(&variants[i], total);
    return 0;
}
