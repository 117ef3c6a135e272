/* The replay window: a table a session would see, then random walks against the naive model. */
#include "check.h"
#include "models.h"

typedef struct {
    bool fresh; /* starts with an empty window */
    uint64_t counter;
    bool accepted;
} row;

static const uint64_t LAST = TC_REJECT_AFTER_MESSAGES - 1;

#define FAR (UINT64_C(1) << 40)

static const row TABLE[] = {
    /* the first packets */
    {true, 0, true},
    {false, 0, false},
    {false, 1, true},
    {false, 1, false},
    {false, 9, true},
    {false, 8, true},
    {false, 7, true},
    {false, 7, false},
    {false, 2, true},
    {false, 0, false},
    /* the edge of the window: 8128 is taken, 8129 is not */
    {true, 8129, true},
    {false, 0, false},
    {false, 1, true},
    {false, 2, true},
    {false, 1, false},
    {true, 8128, true},
    {false, 0, true},
    {false, 0, false},
    {true, 8127, true},
    {false, 0, true},
    {false, 8127, false},
    {true, FAR, true},
    {false, FAR - 8127, true},
    {false, FAR - 8128, true},
    {false, FAR - 8129, false},
    {false, FAR - 8128, false},
    {false, FAR - 8192, false},
    {false, FAR - 1, true},
    /* the window moves by one: what was at its edge falls out */
    {false, FAR + 1, true},
    {false, FAR - 8128, false},
    {false, FAR - 8126, true},
    /* a jump over less, exactly and more than the bitmap leaves no bits behind */
    {true, 5, true},
    {false, 5 + 8191, true},
    {false, 5 + 8191 - 8128, true},
    {true, 64, true},
    {false, 64 + 8192, true},
    {false, 64 + 8192 - 8128, true},
    {false, 64 + 192, true},
    {true, 100, true},
    {false, FAR + 100, true},
    {false, FAR + 100, false},
    {false, FAR + 99, true},
    {false, 100, false},
    /* the end of counters: REJECT_AFTER_MESSAGES is 2^64 - 2^13 - 1 */
    {true, UINT64_MAX, false},
    {false, UINT64_MAX - (1 << 13), false},
    {false, UINT64_MAX - (1 << 13) - 1, true},
    {false, UINT64_MAX - (1 << 13) - 1, false},
    {false, UINT64_MAX - (1 << 13), false},
    {false, UINT64_MAX - 1, false},
    {false, UINT64_MAX - (1 << 13) - 1 - 8128, true},
    {false, UINT64_MAX - (1 << 13) - 1 - 8129, false},
    {false, 0, false},
    /* a refused counter moves nothing */
    {true, UINT64_MAX, false},
    {false, 0, true},
    {false, 3, true},
};

static void test_table(void) {
    tc_replay replay = {0};
    for (size_t i = 0; i < ROWS(TABLE); i++) {
        if (TABLE[i].fresh)
            replay = (tc_replay){0};
        bool got = tc_replay_accept(&replay, TABLE[i].counter);
        CHECK(i, got == TABLE[i].accepted, "counter %llu", (unsigned long long)TABLE[i].counter);
    }
}

/* A whole window backwards: everything within it is new once, and only once. */
static void test_backwards(uint64_t top) {
    tc_replay replay = {0};
    CHECK(-1, tc_replay_accept(&replay, top), "the first");
    for (uint64_t back = 1; back <= 8128; back++)
        CHECK(back, tc_replay_accept(&replay, top - back), "new");
    for (uint64_t back = 0; back <= 8192; back++)
        CHECK(back, !tc_replay_accept(&replay, top - back), "seen or too old");
}

static void test_random(uint64_t start, uint32_t reach) {
    tc_replay replay = {0};
    model_replay model = {0};
    uint64_t around = start;
    for (int round = 0; round < 8000; round++) {
        if (check_below(64) == 0)
            around += check_below(reach);
        uint64_t counter = around + check_below(reach);
        if (check_below(4) == 0 && counter > 10000)
            counter -= 8120 + check_below(16);
        bool expected = model_replay_accept(&model, counter);
        CHECK(round, tc_replay_accept(&replay, counter) == expected, "counter %llu, not %d",
              (unsigned long long)counter, expected);
    }
    free(model.taken);
}

int main(void) {
    test_table();
    test_backwards(9000);
    test_backwards(FAR + 17);
    test_backwards(LAST);
    test_random(0, 100);
    test_random(0, 9000);
    test_random(FAR, 20000);
    test_random(LAST - 30000, 9000);
    return CHECK_DONE();
}
