/* One direction of a path that is made up: what becomes of a datagram that enters it, and when.
 *
 * A datagram meets, in this order: loss; the queue, which drops what does not fit; the link, which
 * sends one at a time; the delay. The queue is no list: a link of a fixed rate is described by when
 * it will be free, and what waits for it is that time less now, times the rate. What a datagram
 * meets is a hash of the seed, its number and the kind of chance: the same in each run, and for one
 * option whatever the others are. Nothing here knows of clocks or sockets; times are nanoseconds.
 */
#ifndef RELAY_PATH_H
#define RELAY_PATH_H
#include <stddef.h>
#include <stdint.h>

/* As asked for: shares from 0 to 1; `byte_ns` is 0 where the rate has no limit. */
struct options {
    double loss, queue, byte_ns, delay, jitter, reorder, duplicate, corrupt;
};

struct link {
    struct options options;
    uint64_t seed;
    uint64_t header; /* bytes that a datagram has on the link beside its payload */
    double free_at, seen, last_due;
    double first; /* when the first datagram entered; with `seen`, the time that `area` is over */
    double area;  /* bytes in the queue times nanoseconds, summed */
    uint64_t datagrams, bytes, lost, dropped, duplicated, corrupted, queue_highest;
};

/* When the copies of a datagram leave (none to two of them), and which of its bits is turned. */
struct fate {
    int copies;
    double due[2];
    int64_t bit; /* -1: none */
};

/* Let a datagram with `size` bytes of payload enter at a time; say what becomes of it. */
struct fate link_enter(struct link *link, size_t size, double at);
#endif
