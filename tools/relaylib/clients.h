/* Who sends to the listener: each has a socket of its own to the far end, so that answers find
 * their way back. There are at most so many, and one that is idle for long makes room. */
#ifndef RELAY_CLIENTS_H
#define RELAY_CLIENTS_H
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

struct client {
    int fd;              /* -1: not in use */
    int next;            /* in its bucket, or in the list of those not in use */
    uint32_t generation; /* changes when another takes the place */
    double seen;         /* ns */
    socklen_t length;
    struct sockaddr_storage address;
    /* Which of our addresses it sends to, as a control message: answers come from there. */
    _Alignas(struct cmsghdr) char local[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    size_t local_length;
};

struct clients {
    struct client *all;
    int most, unused, epoll;
    double idle; /* ns without a datagram after which one goes */
    struct sockaddr_storage target;
    socklen_t target_length;
    uint64_t seen;    /* clients so far */
    uint64_t overrun; /* dropped by the kernel for those that went, their buffers being full */
};

/* The fields most, epoll, idle, target and target_length are given. Answers 0, or -1. */
int clients_set_up(struct clients *clients);

/* Return the client of an address, made if need be; -1 where there are too many. */
int clients_find(struct clients *clients, const struct sockaddr_storage *address, socklen_t length,
                 double now);

/* Take down to which of our addresses a client's datagram came. */
void client_note_local(struct client *client, struct msghdr *message);

/* Let those go that are idle. */
void clients_sweep(struct clients *clients, double now);

/* Make a socket as they all are: large buffers, arrival times, no path MTU of its own. */
void socket_prepare(int fd);

/* Let epoll say `what` when a socket is readable. Answers 0, or -1. */
int socket_watch(int epoll, int fd, int what);

/* Datagrams that the kernel dropped since a socket's buffer was full. */
uint64_t socket_overrun(int fd);
#endif
