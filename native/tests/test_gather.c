/* Gathering: which traffic is paused for, and how often, where rounds follow each other by rule. */
#include "check.h"
#include "gather.h"

enum { ROUNDS = 2000 };

typedef struct {
    const char *name;
    uint64_t apart;           /* nanoseconds from round to round where there is no pause */
    uint32_t packets, bytes;  /* of a round */
    uint32_t gathered;        /* packets of a round after a pause, 0 for none at all */
    bool full;                /* the link or socket has more after each round */
    uint32_t fewest, highest; /* pauses over all rounds */
} traffic;

static const traffic TRAFFICS[] = {
    {"a flood of small packets", 10000, 1, 100, 20, false, ROUNDS - 20, ROUNDS},
    {"a dialogue", 30000, 1, 100, 1, false, 1, 16},
    {"a dialogue that waits for what we hold back", 30000, 1, 100, 0, false, 1, 16},
    {"packets with gaps between them", 1000000, 1, 100, 1, false, 0, 0},
    {"bulk", 20000, 1, 60000, 1, false, 0, 0},
    {"a flood that fills every batch", 10000, 16, 1600, 16, true, 0, 0},
};

static void test_traffic(long row, const traffic *one) {
    tc_gather gather;
    tc_gather_init(&gather);
    uint64_t now = UINT64_C(1000000000);
    uint32_t pauses = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        bool paused = tc_gather_pause(&gather);
        pauses += paused;
        if (paused && !one->gathered)
            tc_gather_in_vain(&gather);
        now += one->apart;
        tc_gather_begin(&gather, now);
        uint32_t packets = paused && one->gathered ? one->gathered : one->packets;
        gather.packets = packets;
        gather.bytes = one->bytes / one->packets * packets;
        gather.more = one->full;
    }
    CHECK(row, pauses >= one->fewest && pauses <= one->highest, "%s: %u pauses in %u rounds",
          one->name, pauses, ROUNDS);
}

/* Who was taken for a dialogue is paused for again in a flood, and in the next one soon. */
static void test_turn(void) {
    const traffic *flood = &TRAFFICS[0];
    tc_gather gather;
    tc_gather_init(&gather);
    uint64_t now = UINT64_C(1000000000);
    uint32_t late = 0, again = 0;
    for (uint32_t i = 0; i < 3 * ROUNDS + 20; i++) {
        bool flooded = i >= ROUNDS, paused = tc_gather_pause(&gather);
        late += paused && i >= 2 * ROUNDS && i < 3 * ROUNDS;
        again += paused && i >= 3 * ROUNDS;
        now += flood->apart;
        if (i == 3 * ROUNDS) {
            tc_gather_in_vain(&gather);
            now += UINT64_C(1000000000);
        }
        tc_gather_begin(&gather, now);
        gather.packets = paused && flooded ? flood->gathered : 1;
        gather.bytes = 100 * gather.packets;
    }
    CHECK(-1, late == ROUNDS, "%u pauses in the last %u rounds of a flood", late, ROUNDS);
    CHECK(-1, again > 1, "%u pauses in the 20 rounds after a gap", again);
}

int main(void) {
    for (size_t i = 0; i < ROWS(TRAFFICS); i++)
        test_traffic((long)i, &TRAFFICS[i]);
    test_turn();
    return CHECK_DONE();
}
