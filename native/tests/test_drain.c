/* How fast sockets drain: lines of every rate, looked at as an uplink does. */
#include "check.h"
#include "drain.h"

static const uint64_t US = 1000, MS = 1000 * 1000, SECOND = 1000 * 1000 * 1000;
enum { PACKET = 2188 }; /* bytes, as the kernel counts them */

/* A line that takes packets at its rate, or has a turn now and then in which it takes as many as
 * were due since the last. */
typedef struct {
    uint64_t rate;  /* bytes a second */
    uint64_t turn;  /* nanoseconds from one to the next, 0: at any time */
    uint64_t since; /* the last */
    uint64_t due;   /* bytes, times SECOND */
    uint64_t waiting, left;
} line;

static void pass(line *one, uint64_t time) {
    one->due += one->rate * time;
    one->since += time;
    if (one->since < one->turn)
        return;
    one->since = 0;
    while (one->waiting && one->due >= PACKET * SECOND) {
        uint64_t leaves = one->waiting < PACKET ? one->waiting : PACKET;
        one->due -= leaves * SECOND;
        one->waiting -= leaves;
        one->left += leaves;
    }
    if (!one->waiting)
        one->due = 0;
}

/* ---- a queue that never ends ---- */

typedef struct {
    tc_drain drain;
    line line;
    uint64_t now, apart;
    bool wanted;
    uint64_t most; /* bytes that waited */
} upload;

static void begin(upload *one, uint64_t rate, uint64_t turn, uint64_t apart) {
    *one = (upload){.line = {.rate = rate, .turn = turn}, .now = SECOND, .apart = apart};
    tc_drain_init(&one->drain);
}

static void go_on(upload *one, uint64_t time) {
    one->most = one->line.left = 0;
    for (uint64_t end = one->now + time; one->now < end; one->now += one->apart) {
        pass(&one->line, one->apart);
        tc_drain_look(&one->drain, one->line.waiting, one->wanted, one->now);
        while (one->line.waiting < one->drain.limit)
            one->line.waiting += PACKET;
        one->wanted = true;
        tc_drain_gave(&one->drain, one->line.waiting);
        if (one->line.waiting > one->most)
            one->most = one->line.waiting;
    }
}

typedef struct {
    const char *name;
    uint64_t rate, turn, apart;
    uint32_t percent; /* by which the rate may be missed; UNKNOWN: it need not be known */
    uint32_t most;    /* milliseconds of the line that wait; 0: it is wide */
} steady;

enum { UNKNOWN = 1000, SETTLES = 30 };

static const steady STEADY[] = {
    {"0.1 Mbit/s: two packets", 12500, 0, 1000000, 40, 351},
    {"1 Mbit/s: two packets", 125000, 0, 1000000, 12, 36},
    {"10 Mbit/s", 1250000, 0, 1000000, 5, 7},
    {"100 Mbit/s", 12500000, 0, 1000000, 5, 6},
    {"400 Mbit/s", 50000000, 0, 1000000, 5, 6},
    {"1 Gbit/s", 125000000, 0, 1000000, 5, 0},
    {"10 Gbit/s", 1250000000, 0, 50000, 5, 0},
    {"10 Gbit/s, looked at too seldom to tell", 1250000000, 0, 1000000, UNKNOWN, 0},
    {"10 Mbit/s, looked at seldom", 1250000, 0, 4000000, 10, 11},
    {"10 Mbit/s, a turn each 4 ms", 1250000, 4000000, 1000000, 15, 11},
    {"10 Mbit/s, a turn each 8 ms", 1250000, 8000000, 1000000, 15, 16},
    {"10 Mbit/s, a turn each 20 ms", 1250000, 20000000, 1000000, 15, 34},
    {"100 Mbit/s, a turn each 8 ms", 12500000, 8000000, 1000000, 15, 13},
};

static void test_steady(long row, const steady *one) {
    upload up;
    begin(&up, one->rate, one->turn, one->apart);
    go_on(&up, SETTLES * SECOND);
    uint64_t may = one->percent * one->rate / 100;
    for (int i = 0; i < 40; i++) {
        go_on(&up, 50 * MS);
        bool wide = up.drain.limit >= TC_DRAIN_WIDE;
        CHECK(row, wide == !one->most, "%s: limit %llu", one->name,
              (unsigned long long)up.drain.limit);
        CHECK(row, up.drain.rate + may >= one->rate && up.drain.rate <= one->rate + may,
              "%s: rate %llu", one->name, (unsigned long long)up.drain.rate);
        CHECK(row, wide || up.most * 1000 <= one->most * one->rate, "%s: %llu bytes waited",
              one->name, (unsigned long long)up.most);
    }
    go_on(&up, 2 * SECOND);
    CHECK(row, one->percent == UNKNOWN || up.line.left * 100 >= 2 * one->rate * 95,
          "%s: only %llu left", one->name, (unsigned long long)up.line.left);
}

/* ---- rates that change ---- */

typedef struct {
    const char *name;
    uint64_t before, after; /* bytes a second; 0: nothing leaves */
    uint64_t time;          /* until it is known */
} change;

static const change CHANGES[] = {
    {"ten times faster", 1250000, 12500000, 500000000},
    {"ten times slower", 12500000, 1250000, 500000000},
    {"a hundred times faster", 125000, 12500000, 500000000},
    {"a hundred times slower", 12500000, 125000, 2500000000},
    {"no longer slow", 1250000, 125000000, 500000000},
    {"slow from now on", 125000000, 1250000, 1000000000},
};

static bool near(uint64_t found, uint64_t rate) {
    return found > rate * 8 / 10 && found < rate * 12 / 10;
}

static void test_change(long row, const change *one) {
    for (int stalled = 0; stalled < 2; stalled++) {
        upload up;
        begin(&up, one->before, 0, MS);
        go_on(&up, 4 * SECOND);
        CHECK(row, near(up.drain.rate, one->before), "%s: %llu before", one->name,
              (unsigned long long)up.drain.rate);
        CHECK(row, !tc_drain_stalls(&up.drain, up.now), "%s: stalls", one->name);
        if (stalled) {
            up.line.rate = 0;
            go_on(&up, 2 * SECOND + 100 * MS);
            CHECK(row, tc_drain_stalls(&up.drain, up.now), "%s: does not stall", one->name);
        }
        up.line.rate = one->after;
        go_on(&up, one->time);
        CHECK(row, near(up.drain.rate, one->after), "%s: %llu after", one->name,
              (unsigned long long)up.drain.rate);
        CHECK(row, !tc_drain_stalls(&up.drain, up.now), "%s: stalls", one->name);
    }
}

/* ---- what makes it wide, and keeps it so ---- */

static void test_dry(void) {
    tc_drain drain;
    tc_drain_init(&drain);
    drain.limit = TC_DRAIN_LEAST;
    for (uint64_t i = 1, now = SECOND; i <= 20; i++, now += MS) {
        tc_drain_look(&drain, 0, i > 2, now); /* at first nothing else was wanted */
        uint64_t limit = i > 2 ? TC_DRAIN_LEAST << (i - 2) : TC_DRAIN_LEAST;
        limit = limit < TC_DRAIN_WIDE ? limit : TC_DRAIN_WIDE;
        CHECK(i, drain.limit == limit, "limit %llu", (unsigned long long)drain.limit);
        tc_drain_gave(&drain, drain.limit / 2);
    }
    CHECK(-1, !drain.rate && !tc_drain_takes(&drain, 1 << 20), "a rate, of nothing");
}

/* Programs that send less than a fast line takes, whose driver tells late what has left: something
 * waits whenever something was just sent. Looks are as an uplink has them. */
static void test_idle_line(void) {
    enum { LOOK = 16 << 10 };
    static const uint32_t EACH_MS[] = {2000, 20000, 60000};
    for (size_t row = 0; row < ROWS(EACH_MS); row++) {
        tc_drain drain;
        tc_drain_init(&drain);
        line fast = {.rate = 125000000};
        uint64_t unseen = 0, now = SECOND;
        for (uint32_t i = 0; i < 5000; i++) {
            uint64_t gap = 200 * US + check_below(1600) * US;
            now += gap;
            pass(&fast, gap);
            uint64_t sent = 1 + check_below(EACH_MS[row] * 2);
            if (tc_drain_is_narrow(&drain)) {
                tc_drain_look(&drain, fast.waiting, false, now);
                fast.waiting += sent;
                tc_drain_gave(&drain, fast.waiting);
                continue;
            }
            fast.waiting += sent;
            unseen += sent;
            if (unseen >= LOOK) {
                unseen = 0;
                tc_drain_glance(&drain, fast.waiting);
            }
            CHECK(i, drain.limit >= TC_DRAIN_FIRST, "taken for a slow line: %llu bytes may wait",
                  (unsigned long long)drain.limit);
        }
    }
}

/* What was given unseen between two looks is no sign of a line that takes nothing: as much waits at
 * the second one as at the first, and all else has left. */
static void test_unseen(void) {
    enum { WAITS = 2 * TC_DRAIN_FIRST };
    tc_drain drain;
    tc_drain_init(&drain);
    uint64_t now = SECOND;
    tc_drain_look(&drain, WAITS, false, now);
    tc_drain_glance(&drain, WAITS / 4);
    tc_drain_glance(&drain, WAITS);
    tc_drain_look(&drain, WAITS, false, now + 300 * MS);
    CHECK(-1, !drain.rate, "%llu bytes a second", (unsigned long long)drain.rate);
    CHECK(-1, drain.limit == TC_DRAIN_FIRST, "%llu", (unsigned long long)drain.limit);
}

static void test_takes(void) {
    tc_drain drain = {.rate = 1250000};
    CHECK(-1, tc_drain_takes(&drain, 12500) == 10 * MS, "%llu",
          (unsigned long long)tc_drain_takes(&drain, 12500));
}

int main(void) {
    for (size_t i = 0; i < ROWS(STEADY); i++)
        test_steady((long)i, &STEADY[i]);
    for (size_t i = 0; i < ROWS(CHANGES); i++)
        test_change((long)i, &CHANGES[i]);
    test_dry();
    test_idle_line();
    test_unseen();
    test_takes();
    return CHECK_DONE();
}
