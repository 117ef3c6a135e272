/* CoDel against the pseudocode of RFC 8289, section 5, which is written out here with its queue. */
#include "check.h"
#include "codel.h"

#include <math.h>

enum { MOST = 4096, ONE_PACKET = 1514 };
static const uint64_t MS = 1000 * 1000;

typedef struct {
    uint64_t since;
    uint32_t bytes, number;
} packet;

/* A queue that both sides have for themselves, for each drops what it likes. */
typedef struct {
    packet packets[MOST];
    uint32_t first, count, bytes, dropped;
} fifo;

static void put(fifo *queue, packet one) {
    if (queue->count == MOST)
        return;
    queue->packets[(queue->first + queue->count++) % MOST] = one;
    queue->bytes += one.bytes;
}

static bool take(fifo *queue, packet *one) {
    if (!queue->count)
        return false;
    *one = queue->packets[queue->first];
    queue->first = (queue->first + 1) % MOST;
    queue->count--;
    queue->bytes -= one->bytes;
    return true;
}

/* ---- the pseudocode ---- */

typedef struct {
    fifo queue;
    uint64_t first_above_time, drop_next;
    uint32_t count, lastcount;
    bool dropping;
} model;

typedef struct {
    bool some, ok_to_drop;
    packet p;
} dodequeue_result;

static dodequeue_result dodequeue(model *m, uint64_t target, uint64_t now) {
    dodequeue_result r = {0};
    r.some = take(&m->queue, &r.p);
    if (!r.some) {
        m->first_above_time = 0;
        return r;
    }
    if (now - r.p.since < target || m->queue.bytes <= ONE_PACKET) {
        m->first_above_time = 0;
    } else if (m->first_above_time == 0) {
        m->first_above_time = now + TC_CODEL_INTERVAL;
    } else if (now >= m->first_above_time) {
        r.ok_to_drop = true;
    }
    return r;
}

static uint64_t control_law(uint64_t t, uint32_t count) {
    return t + (uint64_t)((double)TC_CODEL_INTERVAL / sqrt(count));
}

static bool model_take(model *m, uint64_t target, uint64_t now, packet *one) {
    dodequeue_result r = dodequeue(m, target, now);
    if (m->dropping) {
        if (!r.ok_to_drop)
            m->dropping = false;
        while (now >= m->drop_next && m->dropping) {
            m->queue.dropped++;
            m->count++;
            r = dodequeue(m, target, now);
            if (!r.ok_to_drop)
                m->dropping = false;
            else
                m->drop_next = control_law(m->drop_next, m->count);
        }
    } else if (r.ok_to_drop) {
        m->queue.dropped++;
        r = dodequeue(m, target, now);
        m->dropping = true;
        uint32_t delta = m->count - m->lastcount;
        m->count = 1;
        if (delta > 1 && (int64_t)(now - m->drop_next) < (int64_t)(16 * TC_CODEL_INTERVAL))
            m->count = delta;
        m->drop_next = control_law(now, m->count);
        m->lastcount = m->count;
    }
    *one = r.p;
    return r.some;
}

/* ---- ours ---- */

static bool codel_take(tc_codel *codel, fifo *queue, uint64_t target, uint64_t now, packet *one) {
    while (take(queue, one)) {
        if (!tc_codel_drops(codel, now - one->since, queue->bytes, target, now))
            return true;
        queue->dropped++;
    }
    return false;
}

/* ---- traffic ---- */

typedef struct {
    const char *name;
    uint32_t arrivals, leaves; /* packets a second */
    uint32_t smallest, largest;
    uint64_t target;
    uint64_t on, off;  /* milliseconds; the senders are silent in between */
    uint32_t yielding; /* by how many thousandths a drop slows the senders down */
    uint32_t fewest, most;
} traffic;

static const traffic TRAFFICS[] = {
    {"less than the link takes", 900, 1000, 1400, 1400, 5000000, 1000, 0, 0, 0, 0},
    {"senders that do not care", 1200, 1000, 1400, 1400, 5000000, 1000, 0, 0, 1000, 8000},
    {"senders that slow down", 1200, 1000, 100, 1400, 5000000, 1000, 0, 200, 30, 2000},
    {"bursts that end soon", 5000, 1000, 1400, 1400, 5000000, 20, 300, 0, 0, 0},
    {"bursts that go on", 2000, 1000, 60, 1400, 5000000, 700, 900, 0, 100, 9000},
    {"bursts soon after each other", 1500, 1000, 60, 1400, 5000000, 900, 700, 0, 100, 9000},
    {"a slow link, by a larger target", 40, 10, 1400, 1400, 150000000, 2000, 0, 100, 20, 900},
    {"one small packet after the other", 1200, 1000, 40, 40, 5000000, 1000, 100, 30, 10, 3000},
};

enum { MILLISECONDS = 20000 };

static void test_traffic(long row, const traffic *one) {
    static model theirs;
    static fifo ours;
    tc_codel codel = {0};
    memset(&theirs, 0, sizeof theirs);
    memset(&ours, 0, sizeof ours);
    uint64_t now = 1000 * MS, arrived = 0, left = 0; /* these in thousandths of a packet */
    uint64_t rate = one->arrivals;
    uint32_t number = 0, dropped = 0;
    bool same = true;
    for (uint32_t i = 0; i < MILLISECONDS && same; i++, now += MS) {
        bool on = i % (one->on + one->off) < one->on;
        uint64_t span = MS / (1 + check_below(4));
        for (arrived += on ? rate : 0; arrived >= 1000; arrived -= 1000) {
            uint32_t bytes = one->smallest + check_below(one->largest - one->smallest + 1);
            packet sent = {.since = now + check_below(1000), .bytes = bytes, .number = number++};
            put(&theirs.queue, sent);
            put(&ours, sent);
        }
        for (left += one->leaves; left >= 1000 && same; left -= 1000) {
            packet a, b;
            bool some = model_take(&theirs, one->target, now + span, &a);
            same = some == codel_take(&codel, &ours, one->target, now + span, &b) &&
                   (!some || a.number == b.number);
            CHECK(row, same, "%s: other packets after %u ms", one->name, i);
        }
        for (; dropped < ours.dropped; dropped++)
            rate -= rate * one->yielding / 1000;
        if (rate < one->arrivals && i % 100 == 0)
            rate += one->arrivals / 20;
    }
    CHECK(row, ours.dropped == theirs.queue.dropped, "%s: %u dropped, not %u", one->name,
          ours.dropped, theirs.queue.dropped);
    CHECK(row, ours.dropped >= one->fewest && ours.dropped <= one->most, "%s: %u dropped of %u",
          one->name, ours.dropped, number);
}

/* When a queue that stands loses packets: 100 ms after it began to, and ever closer together. */
static void test_times(void) {
    tc_codel codel = {0};
    uint64_t expected = TC_CODEL_INTERVAL, began = 1000 * MS;
    uint32_t drops = 0;
    for (uint64_t after = 0; after < 3000 * MS; after += MS / 10) {
        if (!tc_codel_drops(&codel, 20 * MS, 90000, TC_CODEL_TARGET, began + after))
            continue;
        CHECK(drops, after >= expected && after < expected + MS / 10, "after %llu ns, not %llu",
              (unsigned long long)after, (unsigned long long)expected);
        expected += (uint64_t)((double)TC_CODEL_INTERVAL / sqrt(++drops));
    }
    CHECK(-1, drops > 200, "%u drops in three seconds", drops);
}

/* However many were dropped, and whatever time has passed. */
static void test_extremes(void) {
    tc_codel codel = {0};
    uint64_t now = 1000 * MS;
    for (uint32_t i = 0; i < 2; i++, now += TC_CODEL_INTERVAL)
        (void)tc_codel_drops(&codel, 20 * MS, 90000, TC_CODEL_TARGET, now);
    CHECK(-1, codel.dropping, "not dropping");
    codel.count = UINT32_MAX - 1;
    for (uint32_t i = 0; i < 4; i++, now += TC_CODEL_INTERVAL)
        CHECK(i, tc_codel_drops(&codel, 20 * MS, 90000, TC_CODEL_TARGET, now), "kept");
    now += UINT64_C(1) << 62;
    CHECK(-1, !tc_codel_drops(&codel, 0, 90000, TC_CODEL_TARGET, now), "dropped at once");
}

int main(void) {
    for (size_t i = 0; i < ROWS(TRAFFICS); i++)
        test_traffic((long)i, &TRAFFICS[i]);
    test_times();
    test_extremes();
    return CHECK_DONE();
}
