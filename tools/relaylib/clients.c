#define _GNU_SOURCE
#include "clients.h"
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BUCKETS = 4096, BUFFER = 16 << 20 };

static int bucket[BUCKETS]; /* the first client of each; -1: none */

void socket_prepare(int fd) {
    int size = BUFFER, on = 1, dont = IP_PMTUDISC_DONT, dont6 = IPV6_PMTUDISC_DONT;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &dont6, sizeof dont6);
    setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &dont, sizeof dont);
}

int socket_watch(int epoll, int fd, int what) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)(int64_t)what};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

uint64_t socket_overrun(int fd) {
    uint32_t info[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof info;
    getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &length);
    return info[SK_MEMINFO_DROPS];
}

static int *bucket_of(const struct sockaddr_storage *address) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a; other fields of the structure are zero */
    for (size_t i = 0; i < sizeof(struct sockaddr_in6); i++)
        hash = (hash ^ ((const uint8_t *)address)[i]) * 1099511628211u;
    return &bucket[hash % BUCKETS];
}

int clients_find(struct clients *clients, const struct sockaddr_storage *address, socklen_t length,
                 double now) {
    int *head = bucket_of(address), at = *head;
    while (at >= 0 && memcmp(&clients->all[at].address, address, sizeof(struct sockaddr_in6)) != 0)
        at = clients->all[at].next;
    if (at < 0 && (at = clients->unused) >= 0) {
        struct client *client = &clients->all[at];
        int fd = socket(clients->target.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            return -1;
        socket_prepare(fd);
        if (connect(fd, (struct sockaddr *)&clients->target, clients->target_length) ||
            socket_watch(clients->epoll, fd, at)) {
            close(fd);
            return -1;
        }
        clients->unused = client->next;
        client->fd = fd;
        client->next = *head;
        client->address = *address;
        client->length = length;
        client->local_length = 0;
        *head = at;
        clients->seen++;
    }
    if (at >= 0)
        clients->all[at].seen = now;
    return at;
}

void client_note_local(struct client *client, struct msghdr *message) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        int four = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO;
        int six = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO;
        if (!four && !six)
            continue;
        memcpy(client->local, c, c->cmsg_len);
        client->local_length = c->cmsg_len;
        void *info = CMSG_DATA((struct cmsghdr *)client->local);
        if (four) /* the route may be by another interface */
            ((struct in_pktinfo *)info)->ipi_ifindex = 0;
        else
            ((struct in6_pktinfo *)info)->ipi6_ifindex = 0;
    }
}

void clients_sweep(struct clients *clients, double now) {
    for (int i = 0; i < BUCKETS; i++)
        for (int *link = &bucket[i]; *link >= 0;) {
            struct client *client = &clients->all[*link];
            if (now - client->seen < clients->idle) {
                link = &client->next;
                continue;
            }
            clients->overrun += socket_overrun(client->fd);
            close(client->fd);
            client->fd = -1;
            client->generation++;
            int at = *link;
            *link = client->next;
            client->next = clients->unused;
            clients->unused = at;
        }
}

int clients_set_up(struct clients *clients) {
    clients->all = calloc((size_t)clients->most, sizeof *clients->all);
    if (!clients->all)
        return -1;
    for (int i = 0; i < clients->most; i++)
        clients->all[i] = (struct client){.fd = -1, .next = i + 1 < clients->most ? i + 1 : -1};
    memset(bucket, 0xff, sizeof bucket);
    return 0;
}
