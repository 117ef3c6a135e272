/* Placing a worker: which traffic makes it keep to a processor, and to which. */
#include "check.h"
#include "place.h"

enum { WAITS = 100, NOBODY = -1 };

typedef struct {
    const char *name;
    int from_link, from_outer; /* the processors of two wakes in turn, NOBODY for none */
    bool waited;
    uint32_t packets, bytes;
    int kept; /* at the end, NOBODY for free */
} traffic;

static const traffic TRAFFICS[] = {
    {"packets from here", 1, NOBODY, true, 1, 100, 1},
    {"packets from outside", NOBODY, 1, true, 1, 100, 1},
    {"a dialogue on one processor", 1, 1, true, 1, 100, 1},
    {"a dialogue on two: who is here counts", 0, 1, true, 1, 100, 0},
    {"batches", 1, 1, true, 20, 2000, NOBODY},
    {"one large packet after the other", 1, 1, true, 1, 60000, NOBODY},
    {"packets without an end", 1, 1, false, 1, 100, NOBODY},
};

static tc_place_round round_of(const traffic *one, bool outer) {
    return (tc_place_round){.waited = one->waited,
                            .packets = one->packets,
                            .bytes = one->bytes,
                            .kind = outer ? TC_FROM_OUTER : TC_FROM_LINK,
                            .processor = outer ? one->from_outer : one->from_link};
}

static int run(tc_place *place, const traffic *one, uint32_t *changes) {
    *changes = 0;
    for (int i = 0; i < 2 * WAITS; i++) {
        tc_place_round round = round_of(one, i & 1);
        if (round.processor != NOBODY)
            *changes += tc_place_note(place, &round);
    }
    return place->state == TC_PLACE_KEPT ? place->processor : NOBODY;
}

static void test_traffic(long row, const traffic *one) {
    tc_place place = {.processor = NOBODY};
    uint32_t changes;
    int kept = run(&place, one, &changes);
    CHECK(row, kept == one->kept, "%s: kept to %d", one->name, kept);
    CHECK(row, changes == (kept == NOBODY ? 0 : 2), "%s: %u changes", one->name, changes);
}

/* Whoever was kept somewhere is let go by every traffic that keeps nobody, and at once. */
static void test_release(long row, const traffic *one) {
    tc_place place = {.processor = NOBODY};
    uint32_t changes;
    run(&place, &TRAFFICS[0], &changes);
    int kept = run(&place, one, &changes);
    CHECK(row, kept == one->kept, "%s: kept to %d", one->name, kept);
    if (one->kept == NOBODY)
        CHECK(row, changes == 1, "%s: %u changes", one->name, changes);
}

/* What wakes it from a processor that is not known decides nothing. */
static void test_unknown(void) {
    tc_place place = {.processor = NOBODY};
    for (int i = 0; i < WAITS; i++)
        tc_place_note(&place, &(tc_place_round){.waited = true, .packets = 1, .processor = NOBODY});
    CHECK(-1, place.state == TC_PLACE_LOOKING, "state %d", (int)place.state);
}

int main(void) {
    for (size_t i = 0; i < ROWS(TRAFFICS); i++) {
        test_traffic((long)i, &TRAFFICS[i]);
        test_release((long)i, &TRAFFICS[i]);
    }
    test_unknown();
    return CHECK_DONE();
}
