/* Measuring how fast sockets drain. */
#include "drain.h"

/* A measurement goes on for so long and over so many bytes, or for so long whatever it finds.
 * Drains come in bursts: a packet, or all that a radio sends in one go. */
static const uint64_t WINDOW = 10 * 1000 * 1000, LONGEST = 200 * 1000 * 1000; /* nanoseconds */
static const uint64_t STALL = 50 * 1000 * 1000;
static const uint64_t SECOND = 1000 * 1000 * 1000;
enum { ENOUGH = 4 << 10 };

void tc_drain_init(tc_drain *drain) {
    *drain = (tc_drain){.limit = TC_DRAIN_FIRST, .most = TC_DRAIN_MOST};
}

static void begin(tc_drain *drain, uint64_t now) {
    drain->since = now;
    drain->drained = drain->burst = 0;
}

static void learn(tc_drain *drain, uint64_t took) {
    uint64_t found = drain->drained * SECOND / took;
    drain->rate = drain->rate ? (3 * drain->rate + found) / 4 : found;
    uint64_t limit = drain->rate * TC_DRAIN_TIME / SECOND;
    /* A radio sends when it has its turn: what leaves in one has to be there. */
    if (limit < drain->burst * 3 / 2)
        limit = drain->burst * 3 / 2;
    drain->limit = limit < TC_DRAIN_LEAST ? TC_DRAIN_LEAST
                   : limit > drain->most  ? drain->most
                                          : limit;
}

void tc_drain_look(tc_drain *drain, uint64_t waiting, bool wanted, uint64_t now) {
    uint64_t gone = drain->left > waiting ? drain->left - waiting : 0;
    drain->drained += gone;
    if (drain->burst < gone)
        drain->burst = gone;
    drain->left = waiting;
    if (!waiting) {
        /* It ran dry, so it may be faster than what was given says. */
        drain->since = 0;
        if (wanted && drain->limit < TC_DRAIN_WIDE)
            drain->limit = drain->limit < drain->most / 2 ? drain->limit * 2 : drain->most;
        return;
    }
    if (!drain->since) {
        begin(drain, now);
        return;
    }
    uint64_t took = now - drain->since;
    if ((took >= WINDOW && drain->drained >= ENOUGH) || took >= LONGEST) {
        learn(drain, took);
        begin(drain, now);
    }
}

void tc_drain_gave(tc_drain *drain, uint64_t waiting) {
    drain->left = waiting;
}

bool tc_drain_stalls(const tc_drain *drain, uint64_t now) {
    return drain->since && !drain->drained && now - drain->since > STALL;
}

void tc_drain_glance(tc_drain *drain, uint64_t waiting) {
    drain->left = waiting;
    drain->since = 0;
}

bool tc_drain_is_narrow(const tc_drain *drain) {
    return (drain->rate && drain->limit < TC_DRAIN_WIDE) || drain->left > drain->limit;
}

uint64_t tc_drain_piece(const tc_drain *drain) {
    return drain->rate / 1000; /* a look's worth: a millisecond */
}

uint64_t tc_drain_takes(const tc_drain *drain, uint64_t bytes) {
    return drain->rate ? bytes * SECOND / drain->rate : 0;
}
