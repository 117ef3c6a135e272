/* The core's operations in a loop, for bench/test_micro_*.py: a call from Python costs a few
 * hundred nanoseconds, which would hide what these cost. Linked with the sources of the core. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "aead.h"
#include "allowedips.h"
#include "packet.h"

enum { BATCH = 64, ROOM = 2048 };

#define SHOWN __attribute__((visibility("default")))

typedef struct {
    tc_aead *aead;
    uint32_t length;
    uint8_t key[32];
    tc_aead_job seal[BATCH], open[BATCH];
    uint8_t plain[BATCH][ROOM], sealed[BATCH][ROOM];
} bench_aead;

SHOWN bench_aead *bench_aead_new(uint32_t length, uint32_t flags) {
    bench_aead *bench = calloc(1, sizeof *bench);
    if (!bench)
        return NULL;
    bench->aead = tc_aead_new(flags);
    bench->length = length;
    memset(bench->key, 7, sizeof bench->key);
    for (uint32_t i = 0; i < BATCH; i++) {
        bench->seal[i] = (tc_aead_job){.key = bench->key,
                                       .counter = i,
                                       .in = bench->plain[i],
                                       .out = bench->sealed[i],
                                       .length = length};
        bench->open[i] = (tc_aead_job){.key = bench->key,
                                       .counter = i,
                                       .in = bench->sealed[i],
                                       .out = bench->plain[i],
                                       .length = length + TC_TAG_BYTES};
    }
    if (!bench->aead || tc_aead_seal(bench->aead, bench->seal, BATCH)) {
        tc_aead_free(bench->aead);
        free(bench);
        return NULL;
    }
    return bench;
}

SHOWN void bench_aead_free(bench_aead *bench) {
    tc_aead_free(bench->aead);
    free(bench);
}

/* Both answer how many packets went well. */
SHOWN uint32_t bench_seal(bench_aead *bench, uint32_t batches) {
    uint32_t good = 0;
    for (uint32_t i = 0; i < batches; i++)
        good += tc_aead_seal(bench->aead, bench->seal, BATCH) ? 0 : BATCH;
    return good;
}

SHOWN uint32_t bench_open(bench_aead *bench, uint32_t batches) {
    uint32_t good = 0;
    for (uint32_t i = 0; i < batches; i++)
        good += (uint32_t)tc_aead_open(bench->aead, bench->open, BATCH);
    return good;
}

/* prefixes: 5 bytes each, an IPv4 address and its length; the peer is the position. */
SHOWN tc_allowedips *bench_table(const uint8_t *prefixes, uint32_t count) {
    tc_allowedips *table = tc_allowedips_new();
    for (uint32_t i = 0; table && i < count; i++)
        if (tc_allowedips_add(table, 4, prefixes + 5 * i, prefixes[5 * i + 4], i)) {
            tc_allowedips_free(table);
            table = NULL;
        }
    return table;
}

SHOWN void bench_table_free(tc_allowedips *table) {
    tc_allowedips_free(table);
}

/* Answers how many of the addresses belong to a peer. */
SHOWN uint32_t bench_find(const tc_allowedips *table, const uint8_t *addresses, uint32_t count) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++)
        found += tc_allowedips_find4(table, addresses + 4 * i) != TC_NO_PEER;
    return found;
}

SHOWN uint32_t bench_parse(const uint8_t *packet, uint32_t length, uint32_t count) {
    uint32_t good = 0;
    for (uint32_t i = 0; i < count; i++) {
        tc_packet parsed;
        good += tc_parse(packet, length, &parsed) == 0;
        __asm__ volatile("" : : "r"(&parsed) : "memory"); /* the result counts as used */
    }
    return good;
}

SHOWN uint32_t bench_total(const uint8_t *packet, uint32_t length, uint32_t count) {
    uint32_t good = 0;
    for (uint32_t i = 0; i < count; i++) {
        __asm__ volatile("" : : "r"(packet) : "memory");
        good += tc_packet_total(packet, length) != 0;
    }
    return good;
}

/* Sends a unit `count` times into one end of a seqpacket pair, waiting while it is full. */
SHOWN uint32_t bench_pump(int fd, const uint8_t *unit, uint32_t length, uint32_t count) {
    struct iovec part = {.iov_base = (void *)unit, .iov_len = length};
    struct mmsghdr batch[BATCH];
    memset(batch, 0, sizeof batch);
    for (int i = 0; i < BATCH; i++)
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    uint32_t sent = 0;
    while (sent < count) {
        int n = sendmmsg(fd, batch, count - sent < BATCH ? count - sent : BATCH, 0);
        if (n < 0 && errno != EINTR)
            break;
        sent += n > 0 ? (uint32_t)n : 0;
    }
    return sent;
}

/* Receives units until they hold `count` packets, of `segment` bytes each behind one header of
 * `header` bytes a unit; answers how many packets came. */
SHOWN uint32_t bench_drain(int fd, uint32_t header, uint32_t segment, uint32_t count) {
    enum { UNIT = 66000, UNITS = 16 };
    uint8_t *memory = malloc(UNIT * UNITS);
    struct iovec parts[UNITS];
    struct mmsghdr batch[UNITS];
    memset(batch, 0, sizeof batch);
    for (int i = 0; i < UNITS; i++) {
        parts[i] = (struct iovec){.iov_base = memory + i * UNIT, .iov_len = UNIT};
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    uint32_t received = 0;
    while (memory && received < count) {
        int n = recvmmsg(fd, batch, UNITS, MSG_WAITFORONE, NULL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++)
            received += (batch[i].msg_len - header) / segment;
    }
    free(memory);
    return received;
}
