/* The queues of flows, and their turns. */
#include "fairqueue.h"

#include <errno.h>
#include <stdlib.h>

#include "ecn.h"

/* What a flow may send in a turn: a full packet. */
enum { QUANTUM = 1514 };
/* Of the longest queue at most so many are dropped at once: the search for it is worth some. */
enum { OVERFLOW_MOST = 64 };

typedef struct flow {
    struct flow *next; /* of its list */
    bool listed;
    int32_t deficit;
    uint32_t bytes;
    tc_queued *oldest, *newest;
    tc_codel codel;
} flow;

typedef struct {
    flow *first, *last;
} list;

struct tc_fairqueue {
    uint64_t seed;
    uint32_t bytes; /* of memory */
    list fresh, old;
    flow flows[TC_FAIRQUEUE_FLOWS];
};

tc_fairqueue *tc_fairqueue_new(uint64_t seed) {
    tc_fairqueue *queue = calloc(1, sizeof *queue);
    if (queue)
        queue->seed = seed;
    return queue;
}

void tc_fairqueue_free(tc_fairqueue *queue) {
    if (!queue)
        return;
    for (uint32_t i = 0; i < TC_FAIRQUEUE_FLOWS; i++) {
        for (tc_queued *queued = queue->flows[i].oldest, *next; queued; queued = next) {
            next = queued->next;
            free(queued);
        }
    }
    free(queue);
}

bool tc_fairqueue_is_empty(const tc_fairqueue *queue) {
    return !queue->bytes;
}

/* ---- flows ---- */

static uint64_t mix(uint64_t hash, const void *data, size_t length) {
    uint64_t word = 0;
    memcpy(&word, data, length);
    hash = (hash ^ word) * UINT64_C(0xbf58476d1ce4e5b9);
    return hash ^ hash >> 29;
}

/* The flow of a packet. Fragments, of which only the first names its ports, go by addresses; what
 * cannot be read shares one. */
static flow *flow_of(tc_fairqueue *queue, const uint8_t *packet, uint32_t length) {
    tc_packet parsed;
    if (tc_parse(packet, length, &parsed) < 0)
        return &queue->flows[0];
    uint64_t hash = queue->seed;
    for (size_t at = 0; at < sizeof parsed.source; at += 8) {
        hash = mix(hash, parsed.source + at, 8);
        hash = mix(hash, parsed.destination + at, 8);
    }
    if (!parsed.fragment) {
        uint16_t rest[3] = {parsed.source_port, parsed.destination_port, parsed.transport};
        hash = mix(hash, rest, sizeof rest);
    }
    return &queue->flows[hash >> 32 & (TC_FAIRQUEUE_FLOWS - 1)];
}

static void append(list *to, flow *one) {
    one->next = NULL;
    if (to->first)
        to->last->next = one;
    else
        to->first = one;
    to->last = one;
}

static void drop_first(list *from) {
    from->first = from->first->next;
}

static uint32_t memory_of(const tc_queued *queued) {
    return (uint32_t)sizeof *queued + queued->length;
}

static tc_queued *pop(tc_fairqueue *queue, flow *from) {
    tc_queued *queued = from->oldest;
    if (!queued)
        return NULL;
    from->oldest = queued->next;
    from->bytes -= queued->length;
    queue->bytes -= memory_of(queued);
    return queued;
}

/* ---- in and out ---- */

static bool too_old(const tc_queued *queued, uint64_t now) {
    return now - queued->since > TC_FAIRQUEUE_LATEST;
}

/* Drops the older half of the longest queue: its sender hears of it soonest, nobody else does. */
static int make_room(tc_fairqueue *queue) {
    flow *longest = &queue->flows[0];
    for (uint32_t i = 1; i < TC_FAIRQUEUE_FLOWS; i++)
        if (queue->flows[i].bytes > longest->bytes)
            longest = &queue->flows[i];
    uint32_t half = longest->bytes / 2;
    int dropped = 0;
    do {
        free(pop(queue, longest));
        dropped++;
    } while (longest->bytes > half && dropped < OVERFLOW_MOST);
    return dropped;
}

int tc_fairqueue_put(tc_fairqueue *queue, const uint8_t *packet, uint32_t length, uint64_t now) {
    tc_queued *queued = malloc(sizeof *queued + length);
    if (!queued)
        return -ENOMEM;
    queued->next = NULL;
    queued->since = now;
    queued->length = length;
    memcpy(queued->packet, packet, length);
    flow *to = flow_of(queue, packet, length);
    if (to->oldest)
        to->newest->next = queued;
    else
        to->oldest = queued;
    to->newest = queued;
    to->bytes += length;
    queue->bytes += memory_of(queued);
    if (!to->listed) {
        to->listed = true;
        to->deficit = QUANTUM;
        append(&queue->fresh, to);
    }
    int dropped = 0;
    while (queue->bytes > TC_FAIRQUEUE_BYTES)
        dropped += make_room(queue);
    return dropped;
}

tc_queued *tc_fairqueue_take(tc_fairqueue *queue, uint64_t target, uint64_t now,
                             tc_fairqueue_losses *losses) {
    for (;;) {
        list *from = queue->fresh.first ? &queue->fresh : &queue->old;
        flow *one = from->first;
        if (!one)
            return NULL;
        if (one->deficit <= 0) {
            one->deficit += QUANTUM;
            drop_first(from);
            append(&queue->old, one);
            continue;
        }
        tc_queued *queued = pop(queue, one);
        if (!queued) {
            /* A fresh flow has to pass by the old ones before it may be fresh again, or one that
             * sends now and then would starve them. */
            drop_first(from);
            if (from == &queue->fresh && queue->old.first)
                append(&queue->old, one);
            else
                one->listed = false;
            continue;
        }
        bool late = too_old(queued, now);
        if (tc_codel_drops(&one->codel, now - queued->since, one->bytes, target, now) || late) {
            if (late || !tc_ecn_mark(queued->packet)) {
                losses->late++;
                free(queued);
                continue;
            }
            losses->marked++;
        }
        one->deficit -= (int32_t)queued->length;
        return queued;
    }
}

uint32_t tc_fairqueue_clear(tc_fairqueue *queue, uint64_t now) {
    uint32_t dropped = 0;
    for (uint32_t i = 0; i < TC_FAIRQUEUE_FLOWS; i++) {
        flow *one = &queue->flows[i];
        while (one->oldest && too_old(one->oldest, now)) {
            free(pop(queue, one));
            dropped++;
        }
    }
    return dropped;
}
