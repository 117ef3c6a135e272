/* Outer sockets. A send may fail for reasons that a second try mends: what a connected socket
 * refuses, be it for a stale ICMP error, goes by an unconnected one; a local address that went away
 * is forgotten, and a path that refuses UDP_SEGMENT gets plain datagrams for a while. */
#include "outer.h"

#include <errno.h>
#include <netinet/udp.h>

#include "peer.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* How a message is built. */
enum { SEGMENTED = 1, CONNECTED = 2 };

/* ---- out ---- */

static void *add_control(struct msghdr *header, int level, int type, size_t size) {
    struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)header->msg_control + header->msg_controllen);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(size);
    header->msg_controllen += CMSG_SPACE(size);
    return CMSG_DATA(c);
}

static bool has_source(const tc_endpoint *endpoint) {
    static const uint8_t none[16];
    return memcmp(endpoint->src, none, sizeof none) != 0;
}

static void build4(struct msghdr *header, struct sockaddr_in *name, const tc_message *message) {
    const tc_endpoint *to = &message->to;
    *name = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(to->port)};
    memcpy(&name->sin_addr, to->address, 4);
    header->msg_namelen = sizeof *name;
    if (has_source(to)) {
        /* No interface index: routes decide the interface, and may change their mind. */
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, to->src, 4);
        memcpy(add_control(header, IPPROTO_IP, IP_PKTINFO, sizeof info), &info, sizeof info);
    }
}

static void build6(struct msghdr *header, struct sockaddr_in6 *name, const tc_message *message) {
    const tc_endpoint *to = &message->to;
    *name = (struct sockaddr_in6){
        .sin6_family = AF_INET6, .sin6_port = htons(to->port), .sin6_scope_id = to->scope};
    memcpy(&name->sin6_addr, to->address, 16);
    header->msg_namelen = sizeof *name;
    if (has_source(to)) {
        struct in6_pktinfo info = {0};
        memcpy(&info.ipi6_addr, to->src, 16);
        if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr))
            info.ipi6_ifindex = to->src_interface;
        memcpy(add_control(header, IPPROTO_IPV6, IPV6_PKTINFO, sizeof info), &info, sizeof info);
    }
}

static void add_ds(struct msghdr *header, const tc_message *message) {
    bool v4 = message->to.family == 4;
    int ds = message->ds;
    memcpy(
        add_control(header, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, sizeof ds),
        &ds, sizeof ds);
}

static void build(tc_outer_batch *batch, uint32_t i, const tc_message *message, uint8_t *data,
                  uint32_t bytes, uint32_t how) {
    batch->parts[i] = (struct iovec){.iov_base = data, .iov_len = bytes};
    batch->headers[i].msg_len = 0;
    struct msghdr *header = &batch->headers[i].msg_hdr;
    *header = (struct msghdr){
        .msg_iov = &batch->parts[i], .msg_iovlen = 1, .msg_control = batch->control[i]};
    if (message->ds)
        add_ds(header, message);
    if (!(how & CONNECTED)) {
        header->msg_name = &batch->names[i];
        if (message->to.family == 4)
            build4(header, &batch->names[i].v4, message);
        else
            build6(header, &batch->names[i].v6, message);
    }
    if (how & SEGMENTED) {
        uint16_t segment = message->segment;
        memcpy(add_control(header, IPPROTO_UDP, UDP_SEGMENT, sizeof segment), &segment,
               sizeof segment);
    }
    if (!header->msg_controllen)
        header->msg_control = NULL;
}

static void report(tc_outer_batch *batch, uint8_t path, int error) {
    uint64_t *reported = &batch->reported[path];
    if (*reported && batch->now - *reported < TC_SECOND)
        return;
    *reported = batch->now;
    tc_events_outer(batch->events, path, error);
}

static bool is_busy(int error) {
    return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

static void count_error(tc_outer_batch *batch, tc_message *message, int error, uint32_t datagrams) {
    message->error = error;
    message->lost += datagrams;
    if (is_busy(error)) {
        tc_count(batch->counters, TC_COUNT_TX_OUTER_BUSY, datagrams);
        return; /* a full buffer is no fault of the path */
    }
    enum tc_counter counter = TC_COUNT_TX_OUTER_FAILED;
    switch (error) {
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENODEV:
    case ENXIO:
    case EADDRNOTAVAIL:
        counter = TC_COUNT_TX_OUTER_UNREACHABLE;
        break;
    case EPERM:
    case EACCES:
        counter = TC_COUNT_TX_OUTER_DENIED;
        break;
    case EMSGSIZE:
        counter = TC_COUNT_TX_OUTER_TOO_BIG;
        break;
    default:
        break;
    }
    tc_count(batch->counters, counter, datagrams);
    report(batch, message->to.path, error);
}

/* Whether the error may come from the local address, which is then forgotten. */
static bool forget_source(tc_outer_batch *batch, tc_message *message, int error) {
    if ((error != EINVAL && error != EADDRNOTAVAIL && error != ENETUNREACH) ||
        !has_source(&message->to))
        return false;
    memset(message->to.src, 0, sizeof message->to.src);
    tc_peer *peer = message->peer;
    if (peer) {
        pthread_mutex_lock(&peer->lock);
        memset(peer->endpoint.src, 0, sizeof peer->endpoint.src);
        pthread_mutex_unlock(&peer->lock);
    }
    tc_count(batch->counters, TC_COUNT_TX_SOURCE_FORGOTTEN, 1);
    return true;
}

/* The datagrams of one message one by one, in calls of up to TC_OUTER_BATCH. */
static void send_plain(tc_outer_batch *batch, int fd, tc_message *message) {
    uint32_t stride = message->count > 1 ? message->segment : message->bytes;
    for (uint32_t done = 0; done < message->count;) {
        uint32_t built = 0;
        for (; built < TC_OUTER_BATCH && done + built < message->count; built++) {
            uint32_t offset = (done + built) * stride;
            uint32_t bytes = message->bytes - offset;
            build(batch, built, message, message->data + offset, bytes < stride ? bytes : stride,
                  0);
        }
        int sent = sendmmsg(fd, batch->headers, built, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            done += (uint32_t)sent;
            continue;
        }
        int error = errno;
        if (forget_source(batch, message, error))
            continue;
        /* One that is refused does not stop the rest, unless the socket is full. */
        uint32_t lost = error == EAGAIN ? message->count - done : 1;
        count_error(batch, message, error, lost);
        done += lost;
    }
}

/* A message that a batched send refused: mends what can be mended. */
static void send_again(tc_outer_batch *batch, int fd, tc_message *message, int error) {
    bool segmented = message->count > 1;
    if (forget_source(batch, message, error)) {
        build(batch, 0, message, message->data, message->bytes, segmented ? SEGMENTED : 0);
        if (sendmsg(fd, &batch->headers[0].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return;
        error = errno;
    }
    if (segmented && (error == EMSGSIZE || error == EIO || error == EINVAL)) {
        tc_count(batch->counters, TC_COUNT_TX_SEGMENT_REFUSED, 1);
        if (message->peer)
            atomic_store_explicit(&message->peer->plain_until, batch->now + TC_OUTER_PLAIN_TIME,
                                  memory_order_relaxed);
        send_plain(batch, fd, message);
        return;
    }
    count_error(batch, message, error, message->count);
}

static int unconnected(const tc_outer *outers, const tc_endpoint *to) {
    const tc_outer *outer = &outers[to->path];
    return to->family == 4 ? outer->fd4 : outer->fd6;
}

static int socket_for(const tc_outer *outers, const tc_endpoint *to) {
    const tc_outer *outer = &outers[to->path];
    if (outer->connected >= 0 && !memcmp(&outer->to, to, sizeof *to))
        return outer->connected;
    return unconnected(outers, to);
}

/* What a connected socket refuses may be an ICMP error of some time ago, or that its address is
 * gone: the others know better. Answers their errno. */
static int send_unconnected(tc_outer_batch *batch, int fd, const tc_message *message) {
    tc_count(batch->counters, TC_COUNT_TX_CONNECTED_REFUSED, 1);
    build(batch, 0, message, message->data, message->bytes, message->count > 1 ? SEGMENTED : 0);
    return sendmsg(fd, &batch->headers[0].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

void tc_outer_send(tc_outer_batch *batch, const tc_outer *outers, tc_message *messages,
                   uint32_t count) {
    for (uint32_t done = 0; done < count;) {
        tc_message *first = &messages[done];
        int fd = socket_for(outers, &first->to);
        if (fd < 0) {
            tc_count(batch->counters, TC_COUNT_TX_NO_SOCKET, first->count);
            first->error = EAFNOSUPPORT;
            first->lost = first->count;
            done++;
            continue;
        }
        bool connected = fd == outers[first->to.path].connected;
        uint32_t built = 0;
        while (done + built < count && socket_for(outers, &messages[done + built].to) == fd) {
            tc_message *message = &messages[done + built];
            build(batch, built++, message, message->data, message->bytes,
                  (message->count > 1 ? SEGMENTED : 0u) | (connected ? CONNECTED : 0u));
        }
        int sent = sendmmsg(fd, batch->headers, built, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            done += (uint32_t)sent;
            if (connected)
                tc_count(batch->counters, TC_COUNT_TX_CONNECTED, (uint32_t)sent);
            continue;
        }
        int error = errno;
        if (connected && !is_busy(error)) {
            fd = unconnected(outers, &first->to);
            error = send_unconnected(batch, fd, first);
        }
        if (error)
            send_again(batch, fd, first, error);
        done++;
    }
}

/* ---- in ---- */

void tc_outer_arrival(struct msghdr *header, uint8_t path, const tc_endpoint *local,
                      tc_arrival *arrival) {
    *arrival = (tc_arrival){.from.path = path};
    tc_endpoint *from = &arrival->from;
    const struct sockaddr_in *v4 = header->msg_name;
    if (v4->sin_family == AF_INET) {
        from->family = 4;
        from->port = ntohs(v4->sin_port);
        memcpy(from->address, &v4->sin_addr, 4);
    } else {
        const struct sockaddr_in6 *v6 = header->msg_name;
        from->family = 6;
        from->port = ntohs(v6->sin6_port);
        from->scope = v6->sin6_scope_id;
        memcpy(from->address, &v6->sin6_addr, 16);
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        const uint8_t *data = CMSG_DATA(c);
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int segment;
            memcpy(&segment, data, sizeof segment);
            arrival->segment = segment > 0 ? (uint32_t)segment : 0;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            arrival->ds = *data;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int class;
            memcpy(&class, data, sizeof class);
            arrival->ds = (uint8_t) class;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, data, sizeof info);
            memcpy(from->src, &info.ipi_spec_dst, 4);
            from->src_interface = (uint32_t)info.ipi_ifindex;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, data, sizeof info);
            memcpy(from->src, &info.ipi6_addr, 16);
            from->src_interface = info.ipi6_ifindex;
        }
    }
    if (local) {
        memcpy(from->src, local->src, sizeof from->src);
        from->src_interface = local->src_interface;
    }
}
