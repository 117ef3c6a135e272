/* A stack's thread that takes the worker's turns, through every change of hands.
 *
 *    host --(turns, or a link)--> engine A ==UDP==> engine B --> link --> echo      (and back)
 *
 * The host sends numbered packets, one at a time or in bulk, and takes each echo in order. Another
 * thread asks and changes things meanwhile, and between rounds the engine stops, starts and gets
 * new keys. Nothing may be lost, doubled or overtaken. Run under the thread and address sanitizers.
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

enum { ROUNDS = 3000, BULK_EVERY = 40, BULK = 24, LARGE = 1200, SMALL = 60, RESTART_EVERY = 700 };
enum { SPANS = 64, LEAD = sizeof(uint32_t) + sizeof(struct virtio_net_hdr) };

typedef struct {
    tc_engine *engine;
    uint32_t peer;
    int stack, inner, outer; /* both ends of the link, and the socket */
    uint8_t address;
} side;

static _Atomic bool over;

static uint16_t open_side(side *s, uint8_t address) {
    tc_options options = {.workers = 1, .ring_slots = 64};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int pair[2];
    s->address = address;
    MUST(!tc_engine_new(&options, &s->engine));
    MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair));
    s->stack = pair[0];
    s->inner = pair[1];
    s->outer = socket(AF_INET, SOCK_DGRAM, 0);
    MUST(!bind(s->outer, (struct sockaddr *)&at, size));
    MUST(!getsockname(s->outer, (struct sockaddr *)&at, &size));
    MUST(!tc_link_attach(s->engine, 0, s->inner, TC_LINK_VNET_HDR, 1420));
    MUST(!tc_outer_attach(s->engine, 0, 0, s->outer, -1));
    s->peer = (uint32_t)tc_peer_add(s->engine);
    return ntohs(at.sin_port);
}

static void aim(side *s, const side *other, uint16_t port) {
    tc_endpoint to = {.family = 4, .port = port, .address = {127, 0, 0, 1}};
    uint8_t inner[4] = {10, 0, 0, other->address};
    MUST(!tc_peer_endpoint(s->engine, s->peer, &to));
    MUST(!tc_allowed_add(s->engine, s->peer, 4, inner, 32));
}

static void close_side(side *s) {
    tc_engine_free(s->engine);
    close(s->stack);
    close(s->inner);
    close(s->outer);
}

static void new_keys(side *a, side *b, uint32_t index) {
    tc_keypair keys = {.local_index = index, .remote_index = index + 1};
    memset(keys.send_key, (int)index, 32);
    memset(keys.receive_key, (int)index + 100, 32);
    MUST(!tc_peer_install(b->engine, b->peer, &keys));
    tc_keypair other = {.local_index = index + 1, .remote_index = index, .initiator = 1};
    memcpy(other.send_key, keys.receive_key, 32);
    memcpy(other.receive_key, keys.send_key, 32);
    MUST(!tc_peer_install(a->engine, a->peer, &other));
}

static void make(uint8_t *p, const side *from, const side *to, uint32_t number, uint32_t length) {
    memset(p, 0, length);
    p[0] = 0x45;
    tc_put_be16(p + 2, (uint16_t)length);
    p[8] = 64;
    p[9] = 253; /* for experiments: no transport's checksum */
    p[12] = p[16] = 10;
    p[15] = from->address;
    p[19] = to->address;
    uint16_t sum = (uint16_t)~tc_checksum_fold(tc_checksum_add(0, p, 20));
    memcpy(p + 10, &sum, 2);
    tc_put_be32(p + 20, number);
}

/* Sends back what comes to B, addresses exchanged. */
static void *echo(void *argument) {
    side *b = argument;
    tc_link link = {.fd = b->stack, .flags = TC_LINK_VNET_HDR};
    uint8_t *buffer = malloc(TC_LINK_READ_BYTES), back[4];
    for (;;) {
        struct pollfd ready = {.fd = link.fd, .events = POLLIN};
        MUST(poll(&ready, 1, 60000) == 1);
        tc_unit unit;
        int error = tc_link_read(&link, buffer, &unit);
        if (error == -EAGAIN)
            continue;
        if (error)
            break;
        uint8_t *p = buffer + TC_LINK_HEADROOM;
        memcpy(back, p + 12, 4);
        memcpy(p + 12, p + 16, 4);
        memcpy(p + 16, back, 4);
        MUST(!tc_link_write(&link, NULL, p, unit.length));
    }
    free(buffer);
    return NULL;
}

static void *meddle(void *argument) {
    side *a = argument;
    uint64_t values[TC_COUNTERS];
    tc_peer_info info;
    for (uint32_t i = 0; !atomic_load(&over); i++) {
        MUST(tc_engine_counters(a->engine, values, TC_COUNTERS) > 0);
        MUST(!tc_peer_info_get(a->engine, a->peer, &info));
        MUST(!tc_link_mtu(a->engine, 1400 + i % 21));
        usleep(200);
    }
    return NULL;
}

static void send_some(const side *a, const side *b, uint32_t *number, uint32_t count, bool lent) {
    uint8_t data[LEAD + SMALL] = {0}, large[LARGE];
    tc_link link = {.fd = a->stack, .flags = TC_LINK_VNET_HDR};
    uint32_t length = SMALL;
    if (count == 1 && lent) {
        memcpy(data, &length, sizeof length);
        make(data + LEAD, a, b, (*number)++, length);
        if (!tc_host_write(a->engine, data, sizeof data))
            return;
        MUST(!tc_link_write(&link, NULL, data + LEAD, length));
        return;
    }
    tc_host_keep(a->engine, 0);
    for (uint32_t i = 0; i < count; i++) {
        make(large, a, b, (*number)++, LARGE);
        MUST(!tc_link_write(&link, NULL, large, LARGE));
    }
}

int main(void) {
    static uint8_t buffer[1 << 18];
    tc_span spans[SPANS];
    pthread_t echoing, meddling;
    side a, b;
    uint16_t port_a = open_side(&a, 1), port_b = open_side(&b, 2);
    aim(&a, &b, port_b);
    aim(&b, &a, port_a);
    MUST(!tc_engine_start(a.engine) && !tc_engine_start(b.engine));
    uint32_t keys = 1, sent = 0, heard = 0, lent = 0, alone = 0;
    new_keys(&a, &b, keys);
    MUST(!pthread_create(&echoing, NULL, echo, &b));
    MUST(!pthread_create(&meddling, NULL, meddle, &a));
    int host = tc_host_enter(a.engine, a.stack, TC_LINK_VNET_HDR);
    MUST(host >= 0);
    MUST(tc_host_enter(a.engine, a.stack, TC_LINK_VNET_HDR) == -EBUSY);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        bool ours = tc_host_keep(a.engine, 1);
        *(ours ? &lent : &alone) += 1;
        send_some(&a, &b, &sent, round % BULK_EVERY == BULK_EVERY - 1 ? BULK : 1, ours);
        while (heard < sent) {
            struct pollfd ready = {.fd = host, .events = POLLIN};
            MUST(poll(&ready, 1, 60000) == 1);
            int got = tc_host_read(a.engine, buffer, sizeof buffer, spans, SPANS);
            MUST(got > 0 || got == -EAGAIN);
            for (int i = 0; i < got; i++) {
                MUST(!(spans[i].flags & TC_SPAN_BROKEN));
                MUST(tc_get_be32(buffer + spans[i].offset + 20) == heard++);
            }
        }
        if (round % RESTART_EVERY == RESTART_EVERY - 1) {
            MUST(!tc_engine_stop(a.engine));
            MUST(!tc_host_keep(a.engine, 1));
            new_keys(&a, &b, keys += 2);
            MUST(!tc_engine_start(a.engine));
        }
    }
    MUST(lent && alone); /* both were seen, or this tested nothing */
    MUST(!tc_host_leave(a.engine) && !tc_host_keep(a.engine, 1));
    atomic_store(&over, true);
    pthread_join(meddling, NULL);
    shutdown(b.inner, SHUT_RDWR);
    pthread_join(echoing, NULL);
    close_side(&a);
    close_side(&b);
    printf("%u packets, %u rounds with the turns and %u without\n", sent, lent, alone);
    return 0;
}
