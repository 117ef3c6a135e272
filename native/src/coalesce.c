/* Coalescing. Two packets join only where cutting the result gives both back, byte for byte but
 * for the IPv4 identification: same headers, sequence numbers that follow on, equal sizes but for
 * the last. The checksum of each is verified during the copy, because the super-packet gets a new
 * one, and a wrong one must stay wrong. */
#include "coalesce.h"

#include <errno.h>
#include <stdlib.h>

#include "checksum.h"
#include "packet.h"

enum { TCP_PSH = 0x08, TCP_ACK = 0x10, UDP_SEGMENTS_MAX = 64 };

void tc_candidate_read(tc_candidate *c, const uint8_t *packet, uint32_t length, uint32_t flags) {
    *c = (tc_candidate){
        .packet = packet, .length = length, .version = packet[0] >> 4, .protocol = TC_PROTO_NONE};
    uint8_t protocol;
    if (c->version == 4) {
        bool fragment = (tc_get_be16(packet + 6) & 0x3fff) != 0;
        if ((packet[0] & 15) != 5 || fragment)
            return;
        protocol = packet[9];
        c->transport = 20;
    } else {
        protocol = packet[6];
        c->transport = 40;
    }
    uint32_t room = length - c->transport;
    const uint8_t *transport = packet + c->transport;
    if (protocol == TC_PROTO_TCP && room >= 20) {
        uint32_t header = (transport[12] >> 4) * 4u;
        bool plain = (transport[13] & ~TCP_PSH) == TCP_ACK && !(transport[12] & 15);
        if (plain && header >= 20 && room > header && !(flags & TC_NO_COALESCE_TCP)) {
            c->protocol = TC_PROTO_TCP;
            c->headers = c->transport + header;
        }
    } else if (protocol == TC_PROTO_UDP && room >= 8) {
        bool summed = transport[6] || transport[7];
        if (summed && room > 8 && tc_get_be16(transport + 4) == room &&
            !(flags & TC_NO_COALESCE_UDP)) {
            c->protocol = TC_PROTO_UDP;
            c->headers = c->transport + 8;
        }
    } else {
        c->transport = 0;
    }
}

static bool same_addresses(const tc_candidate *a, const tc_candidate *b) {
    if (a->version != b->version)
        return false;
    return a->version == 4 ? !memcmp(a->packet + 12, b->packet + 12, 8)
                           : !memcmp(a->packet + 8, b->packet + 8, 32);
}

/* Whether order between the two matters. Packets without ports (fragments, ICMP) belong to every
 * flow between their addresses. */
static bool same_flow(const tc_candidate *a, const tc_candidate *b) {
    if (!same_addresses(a, b))
        return false;
    return !a->transport || !b->transport ||
           !memcmp(a->packet + a->transport, b->packet + b->transport, 4);
}

static bool headers_agree(const tc_candidate *a, const tc_candidate *b) {
    const uint8_t *p = a->packet, *q = b->packet;
    if (a->protocol != b->protocol || a->headers != b->headers || !same_addresses(a, b))
        return false;
    if (a->version == 4) {
        /* version, DS and ECN; flags; time to live */
        if (memcmp(p, q, 2) || p[6] != q[6] || p[8] != q[8])
            return false;
    } else if (memcmp(p, q, 4) || p[7] != q[7]) { /* traffic class and flow label; hop limit */
        return false;
    }
    p += a->transport;
    q += a->transport;
    if (memcmp(p, q, 4))
        return false;
    if (a->protocol == TC_PROTO_UDP)
        return true;
    /* acknowledgement, data offset; window; urgent pointer and options. tc_candidate_read saw to
     * the flags. */
    return !memcmp(p + 8, q + 8, 5) && !memcmp(p + 14, q + 14, 2) &&
           !memcmp(p + 18, q + 18, a->headers - a->transport - 18);
}

static uint64_t pseudo(const tc_candidate *c, uint32_t length) {
    const uint8_t *p = c->packet;
    return tc_checksum_pseudo(c->version, p + (c->version == 4 ? 12 : 8),
                              p + (c->version == 4 ? 16 : 24), c->protocol, length);
}

/* Copies the payload and says whether the packet's checksums were right. */
static bool copy_verified(const tc_candidate *c, uint8_t *to) {
    if (c->version == 4 && tc_checksum_fold(tc_checksum_add(0, c->packet, 20)) != 0xffff)
        return false;
    uint64_t sum = tc_checksum_copy(0, to, c->packet + c->headers, c->length - c->headers);
    sum += pseudo(c, c->length - c->transport);
    sum = tc_checksum_add(sum, c->packet + c->transport, c->headers - c->transport);
    return tc_checksum_fold(sum) == 0xffff;
}

static bool pushes(const tc_candidate *c) {
    return c->protocol == TC_PROTO_TCP && c->packet[c->transport + 13] & TCP_PSH;
}

void tc_super_start(tc_super *super, const tc_candidate *candidate) {
    super->first = *candidate;
    super->length = candidate->length;
    super->segment = candidate->length - candidate->headers;
    super->count = 1;
    super->closed = candidate->protocol == TC_PROTO_NONE || pushes(candidate);
}

bool tc_super_join(tc_super *super, const tc_candidate *candidate) {
    const tc_candidate *first = &super->first;
    uint32_t payload = candidate->length - candidate->headers;
    if (super->closed || candidate->protocol == TC_PROTO_NONE || payload > super->segment ||
        super->length + payload > TC_UNIT_MAX || !headers_agree(first, candidate))
        return false;
    if (first->protocol == TC_PROTO_TCP) {
        uint32_t expected =
            tc_get_be32(first->packet + first->transport + 4) + super->length - first->headers;
        if (tc_get_be32(candidate->packet + first->transport + 4) != expected)
            return false;
    } else if (super->count == UDP_SEGMENTS_MAX) {
        return false;
    }
    if (super->count == 1) {
        if (!copy_verified(first, super->buffer + first->headers)) {
            super->closed = true;
            return false;
        }
        memcpy(super->buffer, first->packet, first->headers);
    }
    if (!copy_verified(candidate, super->buffer + super->length))
        return false;
    super->length += payload;
    super->count++;
    if (pushes(candidate)) {
        super->buffer[first->transport + 13] |= TCP_PSH;
        super->closed = true;
    }
    if (payload < super->segment)
        super->closed = true;
    return true;
}

const uint8_t *tc_super_end(tc_super *super, struct virtio_net_hdr *vnet, uint32_t *length) {
    const tc_candidate *first = &super->first;
    uint32_t count = super->count;
    *length = super->length;
    super->count = 0;
    memset(vnet, 0, sizeof *vnet);
    if (count == 1)
        return first->packet;

    uint8_t *ip = super->buffer;
    uint8_t *transport = ip + first->transport;
    uint32_t below = super->length - first->transport;
    if (first->version == 4) {
        tc_put_be16(ip + 2, (uint16_t)super->length);
        ip[10] = ip[11] = 0;
        uint16_t sum = (uint16_t)~tc_checksum_fold(tc_checksum_add(0, ip, 20));
        memcpy(ip + 10, &sum, sizeof sum);
        vnet->gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    } else {
        tc_put_be16(ip + 4, (uint16_t)(super->length - 40));
        vnet->gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
    }
    vnet->csum_offset = 16;
    if (first->protocol == TC_PROTO_UDP) {
        tc_put_be16(transport + 4, (uint16_t)below);
        vnet->gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        vnet->csum_offset = 6;
    }
    uint16_t partial = tc_checksum_fold(pseudo(first, below));
    memcpy(transport + vnet->csum_offset, &partial, sizeof partial);
    vnet->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    vnet->hdr_len = (uint16_t)first->headers;
    vnet->gso_size = (uint16_t)super->segment;
    vnet->csum_start = (uint16_t)first->transport;
    return ip;
}

/* ---- several flows ---- */

int tc_coalescer_init(tc_coalescer *coalescer, const tc_link *link, tc_counters *counters) {
    *coalescer = (tc_coalescer){.link = link, .counters = counters};
    coalescer->memory = malloc((size_t)TC_COALESCER_FLOWS * (TC_UNIT_MAX + 1));
    if (!coalescer->memory)
        return -ENOMEM;
    for (size_t i = 0; i < TC_COALESCER_FLOWS; i++)
        coalescer->supers[i].buffer = coalescer->memory + i * (TC_UNIT_MAX + 1);
    return 0;
}

void tc_coalescer_free(tc_coalescer *coalescer) {
    tc_backlog_clear(&coalescer->backlog);
    free(coalescer->memory);
}

static void fail(tc_coalescer *coalescer, int error, uint32_t count) {
    tc_count(coalescer->counters, TC_COUNT_RX_LINK_FAILED, count);
    if (tc_link_is_dead(error))
        coalescer->dead = -error;
}

static void put(tc_coalescer *coalescer, const struct virtio_net_hdr *vnet, const uint8_t *packet,
                uint32_t length, uint32_t count) {
    if (coalescer->link->fd < 0 || coalescer->dead) {
        tc_count(coalescer->counters, TC_COUNT_RX_NO_LINK, count);
        return;
    }
    if (coalescer->sink && !tc_sink_take(coalescer->sink, vnet, packet, length))
        coalescer->sink = NULL;
    int error = 0;
    if (!coalescer->sink)
        error = tc_backlog_write(&coalescer->backlog, coalescer->link, vnet, packet, length);
    if (!error) {
        tc_count(coalescer->counters, TC_COUNT_RX_UNITS, 1);
        tc_count(coalescer->counters, TC_COUNT_RX_PACKETS, count);
        if (count > 1)
            tc_count(coalescer->counters, TC_COUNT_RX_COALESCED, count);
    } else if (error == -EAGAIN || error == -ENOBUFS) {
        tc_count(coalescer->counters, TC_COUNT_RX_LINK_BUSY, count);
    } else {
        fail(coalescer, error, count);
    }
}

static void write_out(tc_coalescer *coalescer, uint32_t index) {
    tc_super ended = coalescer->supers[index];
    struct virtio_net_hdr vnet;
    uint32_t length, count = ended.count;
    const uint8_t *packet = tc_super_end(&ended, &vnet, &length);
    put(coalescer, &vnet, packet, length, count);
    /* Keep the others in order, and this one's buffer for the next flow. */
    coalescer->open--;
    memmove(&coalescer->supers[index], &coalescer->supers[index + 1],
            (coalescer->open - index) * sizeof ended);
    coalescer->supers[coalescer->open] = ended;
}

void tc_coalescer_add(tc_coalescer *coalescer, const uint8_t *packet, uint32_t length) {
    if (!(coalescer->link->flags & TC_LINK_VNET_HDR)) {
        put(coalescer, NULL, packet, length, 1);
        return;
    }
    uint32_t flags = coalescer->flags;
    if (!(coalescer->link->flags & TC_LINK_USO))
        flags |= TC_NO_COALESCE_UDP;
    tc_candidate candidate;
    tc_candidate_read(&candidate, packet, length, flags);
    for (uint32_t i = 0; i < coalescer->open;) {
        tc_super *super = &coalescer->supers[i];
        if (!same_flow(&super->first, &candidate)) {
            i++;
        } else if (tc_super_join(super, &candidate)) {
            if (super->closed)
                write_out(coalescer, i);
            return;
        } else {
            write_out(coalescer, i);
        }
    }
    if (candidate.protocol == TC_PROTO_NONE) {
        put(coalescer, NULL, packet, length, 1);
        return;
    }
    if (coalescer->open == TC_COALESCER_FLOWS)
        write_out(coalescer, 0);
    tc_super_start(&coalescer->supers[coalescer->open++], &candidate);
    if (coalescer->supers[coalescer->open - 1].closed)
        write_out(coalescer, coalescer->open - 1);
}

void tc_coalescer_flush(tc_coalescer *coalescer) {
    while (coalescer->open)
        write_out(coalescer, 0);
}

bool tc_coalescer_retry(tc_coalescer *coalescer) {
    if (!coalescer->backlog.oldest)
        return false;
    int error = tc_backlog_drain(&coalescer->backlog, coalescer->link);
    if (error && error != -EAGAIN)
        fail(coalescer, error, 1);
    return coalescer->backlog.oldest;
}
