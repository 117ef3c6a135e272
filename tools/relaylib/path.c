#include "path.h"
#include <math.h>

enum { LOSS, DUPLICATE, CORRUPT, PLACE, REORDER, HOLD, WANDER, CHANCES };

/* In [0, 1): the finalizer of splitmix64 (Steele, Lea, Flood 2014) over a counter. */
static double chance(const struct link *link, int kind, uint64_t number) {
    uint64_t x = link->seed + (number * CHANCES + (uint64_t)kind + 1) * 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return (double)((x ^ x >> 31) >> 11) * 0x1p-53;
}

/* The delay wanders: a new value each two jitters, a straight line in between. So it never falls
 * faster than time passes, no datagram overtakes another at any rate, and the mean is the delay. */
static double delay_at(const struct link *link, double when) {
    double jitter = link->options.jitter;
    if (jitter <= 0)
        return link->options.delay;
    double slot = floor(when / (2 * jitter)), share = when / (2 * jitter) - slot;
    double from = chance(link, WANDER, (uint64_t)slot);
    double to = chance(link, WANDER, (uint64_t)slot + 1);
    return link->options.delay + jitter * (2 * (from + (to - from) * share) - 1);
}

/* One copy: through the queue, the link and the delay. Returns when it leaves, or a negative time
 * where the queue is full. */
static double carry(struct link *link, uint64_t number, double wire, double at) {
    const struct options *options = &link->options;
    double wait = fmax(0, link->free_at - at);
    if (options->byte_ns > 0) {
        double queued = wait / options->byte_ns + wire;
        if (queued > options->queue) {
            link->dropped++;
            return -1;
        }
        if (queued > (double)link->queue_highest)
            link->queue_highest = (uint64_t)queued;
    }
    link->free_at = at + wait + wire * options->byte_ns;
    double due = link->free_at + delay_at(link, link->free_at);
    /* One that is held back is overtaken by those behind it, so it does not hold them up. */
    if (chance(link, REORDER, number) < options->reorder)
        return due + chance(link, HOLD, number) * (options->delay / 2 + 5e6);
    return link->last_due = fmax(due, link->last_due);
}

struct fate link_enter(struct link *link, size_t size, double at) {
    const struct options *options = &link->options;
    struct fate fate = {.bit = -1};
    uint64_t number = link->datagrams++;
    link->bytes += size;
    if (number == 0)
        link->first = link->seen = at;
    at = fmax(at, link->seen); /* stamps of different sockets may cross */
    if (options->byte_ns > 0) {
        double wait = fmax(0, link->free_at - link->seen), drained = fmin(wait, at - link->seen);
        link->area += (wait - drained / 2) * drained / options->byte_ns;
    }
    link->seen = at;
    if (chance(link, LOSS, number) < options->loss) {
        link->lost++;
        return fate;
    }
    if (size && chance(link, CORRUPT, number) < options->corrupt) {
        fate.bit = (int64_t)(chance(link, PLACE, number) * (double)size * 8);
        link->corrupted++;
    }
    int wanted = 1 + (chance(link, DUPLICATE, number) < options->duplicate);
    for (int i = 0; i < wanted; i++) {
        double due = carry(link, number, (double)(size + link->header), at);
        if (due >= 0)
            fate.due[fate.copies++] = due;
    }
    link->duplicated += fate.copies == 2;
    return fate;
}
