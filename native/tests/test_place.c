/* Placing a worker: which traffic makes it keep to a processor, and to which. */
#include "check.h"
#include "place.h"

enum { WAITS = 200, HERE = 7, NOBODY = -1 };

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
                            .processor = outer ? one->from_outer : one->from_link,
                            .here = HERE};
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

/* It keeps where it is first, and then to where the packets come from. */
static void test_traffic(long row, const traffic *one) {
    tc_place place = {0};
    uint32_t changes;
    int kept = run(&place, one, &changes);
    CHECK(row, kept == one->kept, "%s: kept to %d", one->name, kept);
    CHECK(row, changes == (kept == NOBODY ? 0 : 2), "%s: %u changes", one->name, changes);
}

/* Whoever was kept somewhere is let go by every traffic that keeps nobody, and at once. */
static void test_release(long row, const traffic *one) {
    tc_place place = {0};
    uint32_t changes;
    run(&place, &TRAFFICS[0], &changes);
    int kept = run(&place, one, &changes);
    CHECK(row, kept == one->kept, "%s: kept to %d", one->name, kept);
    if (one->kept == NOBODY)
        CHECK(row, changes == 1, "%s: %u changes", one->name, changes);
}

/* What wakes it from a processor that is not known leaves it where it is. */
static void test_unknown(void) {
    static const traffic unknown = {"", NOBODY, NOBODY, true, 1, 100, HERE};
    tc_place place = {0};
    for (int i = 0; i < WAITS; i++) {
        tc_place_round round = round_of(&unknown, i & 1);
        tc_place_note(&place, &round);
    }
    CHECK(-1, place.state == TC_PLACE_KEPT && place.processor == HERE, "state %d, processor %d",
          (int)place.state, place.processor);
}

/* ---- a dialogue of a user here with somebody outside, as the kernel plays it ---- */

enum { ROUND_TRIPS = 200, SETTLED = 100 };

typedef struct {
    tc_place place;
    int processor;
} end;

/* One lone packet for an end, from a processor. Answers whether the end moved for it. */
static bool packet(end *one, tc_waker_kind kind, int from, bool waited) {
    bool moves = tc_place_note(&one->place, &(tc_place_round){.waited = waited,
                                                              .packets = 1,
                                                              .bytes = 100,
                                                              .kind = kind,
                                                              .processor = from,
                                                              .here = one->processor});
    moves = moves && one->place.state == TC_PLACE_KEPT && one->place.processor != one->processor;
    if (moves)
        one->processor = one->place.processor;
    return moves;
}

/* A thread with real time that is kept nowhere does not wait where another one runs. */
static void wake(end *one, int busy) {
    if (one->place.state == TC_PLACE_FREE && one->processor == busy)
        one->processor = !busy;
}

/* Both ends on this machine, whose two processors are idle but for them and the user: who is woken
 * where somebody runs goes to the other one, and who was only interrupted stays. Whatever they
 * begin with, all must end up on one processor, and stay there. */
static void test_both_ends(long row) {
    end near = {.processor = row & 1}, far = {.processor = row >> 1 & 1};
    int user = row >> 2 & 1;
    uint32_t apart = 0, moves = 0;
    for (int i = 0; i < ROUND_TRIPS; i++) {
        int begun = user;
        bool moved = packet(&near, TC_FROM_LINK, user, true);
        wake(&far, near.processor);
        bool interrupted = near.processor == user && far.processor == user && !moved;
        moved |= packet(&far, TC_FROM_OUTER, near.processor, true);
        packet(&far, TC_FROM_LINK, far.processor, false);
        wake(&near, far.processor);
        if (!interrupted && user == near.processor)
            user = !user;
        moved |= packet(&near, TC_FROM_OUTER, far.processor, true);
        if (i < SETTLED)
            continue;
        moves += moved;
        apart += near.processor != begun || far.processor != begun;
    }
    CHECK(row, apart == 0 && moves == 0, "%u round trips not on one processor, %u moves", apart,
          moves);
}

/* A far end that is elsewhere: the user always sleeps before he is answered, so to follow him gains
 * next to nothing, and must become rare. */
static void test_far_away(void) {
    end near = {0};
    int user = 1;
    uint32_t moves = 0;
    for (int i = 0; i < ROUND_TRIPS; i++) {
        moves += packet(&near, TC_FROM_LINK, user, true);
        if (user == near.processor)
            user = !user;
        moves += packet(&near, TC_FROM_OUTER, 0, true);
    }
    CHECK(-1, moves <= ROUND_TRIPS / 16, "%u moves", moves);
}

int main(void) {
    for (size_t i = 0; i < ROWS(TRAFFICS); i++) {
        test_traffic((long)i, &TRAFFICS[i]);
        test_release((long)i, &TRAFFICS[i]);
    }
    test_unknown();
    for (long row = 0; row < 8; row++)
        test_both_ends(row);
    test_far_away();
    return CHECK_DONE();
}
