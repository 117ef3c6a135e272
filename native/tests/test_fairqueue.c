/* Flow queuing: against the scheduler of RFC 8290 written out with lists of numbers, and each of
 * its promises by itself. */
#include "check.h"
#include "checksum.h"
#include "ecn.h"
#include "fairqueue.h"

static const uint64_t MS = 1000 * 1000, START = 1000000000;
static const uint64_t PATIENT = UINT64_C(1) << 60; /* a target that no packet misses */
enum { HEADERS = 32, QUANTUM = 1514, SEED = 5 };

/* ---- packets: a flow's datagrams with their numbers ---- */

static uint32_t make(uint8_t *p, uint32_t flow, uint32_t number, uint32_t length, uint8_t ecn) {
    memset(p, 0, length);
    p[0] = 0x45;
    p[1] = ecn;
    tc_put_be16(p + 2, (uint16_t)length);
    p[8] = 64;
    p[9] = 17;
    tc_put_be32(p + 12, 0x0a000001);
    tc_put_be32(p + 16, 0x0a000002);
    uint16_t sum = (uint16_t)~tc_checksum_fold(tc_checksum_add(0, p, 20));
    memcpy(p + 10, &sum, 2);
    tc_put_be16(p + 20, (uint16_t)(1000 + flow));
    tc_put_be16(p + 22, 9);
    tc_put_be16(p + 24, (uint16_t)(length - 20));
    tc_put_be32(p + 28, number);
    return length;
}

static uint32_t flow_in(const uint8_t *p) {
    return tc_get_be16(p + 20) - 1000u;
}

static uint32_t number_in(const uint8_t *p) {
    return tc_get_be32(p + 28);
}

/* The queue answers with copies: what it was given is gone when it is asked. */
static int put(tc_fairqueue *queue, const uint8_t *packet, uint32_t length, uint64_t now) {
    uint8_t *copy = check_copy(packet, length);
    int dropped = tc_fairqueue_put(queue, copy, length, now);
    free(copy);
    return dropped;
}

static int put_one(tc_fairqueue *queue, uint32_t flow, uint32_t number, uint32_t length,
                   uint64_t now) {
    uint8_t packet[2000];
    return put(queue, packet, make(packet, flow, number, length, 0), now);
}

static tc_queued *take(tc_fairqueue *queue, uint64_t now) {
    tc_fairqueue_losses losses = {0};
    tc_queued *one = tc_fairqueue_take(queue, PATIENT, now, &losses);
    CHECK(-1, !losses.late && !losses.marked, "%u late, %u marked", losses.late, losses.marked);
    return one;
}

/* ---- the model: RFC 8290, section 4, and RFC 8289's verdicts ---- */

enum { FLOWS = 6, MOST = 20000 };

typedef struct {
    struct {
        uint32_t number, length;
        uint64_t since;
        uint8_t ecn;
    } packets[MOST];
    uint32_t first, count, bytes;
    int64_t credits;
    tc_codel codel;
} model_flow;

typedef struct {
    model_flow flows[FLOWS];
    uint32_t fresh[FLOWS], old[FLOWS], freshes, olds;
    uint32_t late, marked;
} model;

static void remove_first(uint32_t *list, uint32_t *count) {
    memmove(list, list + 1, --*count * sizeof *list);
}

static void model_put(model *m, uint32_t flow, uint32_t number, uint32_t length, uint8_t ecn,
                      uint64_t now) {
    model_flow *to = &m->flows[flow];
    uint32_t place = to->count++;
    to->packets[place].number = number;
    to->packets[place].length = length;
    to->packets[place].since = now;
    to->packets[place].ecn = ecn;
    to->bytes += length;
    for (uint32_t i = 0; i < m->freshes; i++)
        if (m->fresh[i] == flow)
            return;
    for (uint32_t i = 0; i < m->olds; i++)
        if (m->old[i] == flow)
            return;
    to->credits = QUANTUM;
    m->fresh[m->freshes++] = flow;
}

/* Whether there is one: its flow and number, and whether it was marked. */
static bool model_take(model *m, uint64_t target, uint64_t now, uint32_t *flow, uint32_t *number,
                       bool *marked) {
    while (m->freshes || m->olds) {
        bool fresh = m->freshes;
        *flow = fresh ? m->fresh[0] : m->old[0];
        model_flow *one = &m->flows[*flow];
        bool spent = one->credits <= 0, empty = one->first == one->count;
        if (spent || empty) {
            if (fresh)
                remove_first(m->fresh, &m->freshes);
            else
                remove_first(m->old, &m->olds);
            if (spent)
                one->credits += QUANTUM;
            if (spent || (fresh && m->olds))
                m->old[m->olds++] = *flow;
            continue;
        }
        uint32_t place = one->first++, length = one->packets[place].length;
        uint64_t waited = now - one->packets[place].since;
        one->bytes -= length;
        *number = one->packets[place].number;
        *marked = false;
        if (tc_codel_drops(&one->codel, waited, one->bytes, target, now)) {
            if (!one->packets[place].ecn) {
                m->late++;
                continue;
            }
            m->marked++;
            *marked = true;
        }
        one->credits -= length;
        return true;
    }
    return false;
}

typedef struct {
    const char *name;
    uint32_t flows, smallest, largest;
    uint32_t arrivals, leaves; /* of a hundred steps */
    bool ecn;
} traffic;

static const traffic TRAFFICS[] = {
    {"one flow", 1, 1400, 1400, 60, 40, false},
    {"unlike packets", FLOWS, 32, 1514, 70, 60, false},
    {"some that know of ECN", FLOWS, 32, 1514, 70, 60, true},
    {"large packets that take several turns", 3, 1500, 1990, 60, 50, true},
    {"hardly a queue", FLOWS, 60, 1400, 50, 50, true},
};

static void test_traffic(long row, const traffic *one) {
    static model m;
    memset(&m, 0, sizeof m);
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    tc_fairqueue_losses losses = {0};
    uint64_t now = START;
    uint32_t number = 0, steps = 0;
    bool same = true, some = true;
    while (same && (steps++ < MOST || some)) {
        now += check_below(1000) * 1000;
        bool filling = steps < MOST;
        if (filling && check_below(100) < one->arrivals) {
            uint8_t packet[2000], ecn = one->ecn ? (uint8_t)check_below(4) : 0;
            uint32_t length = one->smallest + check_below(one->largest - one->smallest + 1);
            /* The first sends most, the last now and then. */
            uint32_t flow = check_below(1 + check_below(one->flows));
            make(packet, flow, number, length, ecn);
            CHECK(row, !put(queue, packet, length, now), "%s: dropped", one->name);
            model_put(&m, flow, number++, length, ecn, now);
        }
        if (filling && check_below(100) >= one->leaves)
            continue;
        uint32_t flow, expected;
        bool marked;
        some = model_take(&m, TC_CODEL_TARGET, now, &flow, &expected, &marked);
        tc_queued *got = tc_fairqueue_take(queue, TC_CODEL_TARGET, now, &losses);
        same = some == (got != NULL);
        if (some && got) {
            same = flow_in(got->packet) == flow && number_in(got->packet) == expected;
            CHECK(row, !marked || tc_ecn_of(got->packet) == TC_ECN_CE, "%s: not marked", one->name);
            uint16_t sum = tc_checksum_fold(tc_checksum_add(0, got->packet, 20));
            CHECK(row, sum == 0xffff, "%s: checksum %x", one->name, sum);
        }
        CHECK(row, same, "%s: another packet at step %u", one->name, steps);
        free(got);
    }
    CHECK(row, tc_fairqueue_is_empty(queue), "%s: not empty", one->name);
    CHECK(row, losses.late == m.late && losses.marked == m.marked,
          "%s: %u late, not %u; %u marked, not %u", one->name, losses.late, m.late, losses.marked,
          m.marked);
    CHECK(row, one->leaves >= one->arrivals || m.late, "%s: nothing was late", one->name);
    CHECK(row, !one->ecn || one->leaves >= one->arrivals || m.marked, "%s: nothing marked",
          one->name);
    tc_fairqueue_free(queue);
}

/* ---- its promises ---- */

/* Bytes, whatever the size of the packets, and in order within each flow. */
static void test_fairness(void) {
    static const uint32_t LENGTHS[] = {1500, 32, 100, 700, 1514};
    enum { TAKEN = 3000, PACKETS = 9000 };
    uint64_t bytes[ROWS(LENGTHS)] = {0};
    uint32_t next[ROWS(LENGTHS)] = {0};
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    for (uint32_t i = 0; i < PACKETS; i++)
        for (uint32_t flow = 0; flow < ROWS(LENGTHS); flow++)
            if ((uint64_t)i * LENGTHS[flow] < 300000)
                CHECK(i, !put_one(queue, flow, i, LENGTHS[flow], START), "dropped");
    for (uint32_t i = 0; i < TAKEN; i++) {
        tc_queued *one = take(queue, START);
        uint32_t flow = flow_in(one->packet);
        CHECK(i, number_in(one->packet) == next[flow]++, "flow %u out of order", flow);
        bytes[flow] += one->length;
        free(one);
        for (uint32_t other = 0; i > 100 && other < ROWS(LENGTHS); other++)
            CHECK(i, bytes[other] + 2 * QUANTUM >= bytes[flow], "flow %u has %llu bytes, %u %llu",
                  flow, (unsigned long long)bytes[flow], other, (unsigned long long)bytes[other]);
    }
    tc_fairqueue_free(queue);
}

/* What is sparse passes a queue that stands, each time. */
static void test_sparse(void) {
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    for (uint32_t i = 0; i < 1000; i++)
        put_one(queue, 0, i, 1400, START);
    for (int i = 0; i < 3; i++) /* a flow that begins is sparse as well */
        free(take(queue, START));
    for (uint32_t i = 0; i < 100; i++) {
        put_one(queue, 1, i, 84, START);
        tc_queued *one = take(queue, START);
        CHECK(i, flow_in(one->packet) == 1, "it waits");
        free(one);
        for (int round = 0; round < 3; round++) {
            one = take(queue, START);
            CHECK(i, flow_in(one->packet) == 0, "nothing else was there");
            free(one);
        }
    }
    tc_fairqueue_free(queue);
}

/* But one that is always empty when it is asked, and has something at once, gets no more than the
 * others. */
static void test_no_starving(void) {
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    uint32_t turns[2] = {0}, given = 0;
    for (uint32_t i = 0; i < 1000; i++)
        put_one(queue, 0, i, 1400, START);
    for (uint32_t i = 0; i < 500; i++) {
        if (turns[1] == given)
            put_one(queue, 1, given++, 1400, START);
        tc_queued *one = take(queue, START);
        turns[flow_in(one->packet)]++;
        free(one);
    }
    CHECK(-1, turns[0] > 200, "%u of 500 turns", turns[0]);
    tc_fairqueue_free(queue);
}

/* The longest queue pays, with what it has had longest. */
static void test_overflow(void) {
    enum { BULK = 9000, LENGTH = 1000, SPARSE = 100, EXTRA = 100 };
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    int dropped = 0;
    for (uint32_t i = 0; i < EXTRA; i++)
        CHECK(i, !put_one(queue, 1, i, SPARSE, START), "dropped");
    for (uint32_t i = 0; i < BULK; i++)
        dropped += put_one(queue, 0, i, LENGTH, START);
    uint32_t got[2] = {0}, last = 0;
    uint64_t bytes = 0;
    for (tc_queued *one; (one = take(queue, START)); free(one)) {
        uint32_t flow = flow_in(one->packet), number = number_in(one->packet);
        CHECK(number, flow ? number == got[1] : !got[0] || number == last + 1, "flow %u", flow);
        last = flow ? last : number;
        got[flow]++;
        bytes += one->length;
    }
    CHECK(-1, got[0] + (uint32_t)dropped == BULK && got[1] == EXTRA, "%u and %u, %d dropped",
          got[0], got[1], dropped);
    CHECK(-1, bytes <= TC_FAIRQUEUE_BYTES && bytes > TC_FAIRQUEUE_BYTES / 2, "%llu bytes",
          (unsigned long long)bytes);
    CHECK(-1, last == BULK - 1, "the newest is gone");
    tc_fairqueue_free(queue);
}

/* What cannot be told apart by ports stays in one queue, and so in order. */
typedef struct {
    const char *name;
    uint32_t place, value; /* a word of the even packets */
    uint32_t odd;          /* and of the odd ones */
    bool together;
} sorting;

static const sorting SORTINGS[] = {
    {"two flows by their ports", 20, 0x04000009, 0x05000009, false},
    {"the first fragment and one after it", 4, 0x00002000, 0x000000ff, true},
    {"a last fragment and one before it", 4, 0x000000ff, 0x000020ff, true},
    {"two that say more than they have", 0, 0x4500ffff, 0x4500fffe, true},
    {"two with too short a header", 0, 0x410005dc, 0x420005dc, true},
    {"two versions that are none", 0, 0x50000000, 0xf0000000, true},
};

static void test_sorting(long row, const sorting *one) {
    enum { PACKETS = 20 };
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    bool in_order = true;
    for (uint32_t i = 0; i < PACKETS; i++) {
        uint8_t packet[1500];
        make(packet, 0, i, sizeof packet, 0);
        /* The even ones first: were the odd ones of another flow, they would have turns between. */
        tc_put_be32(packet + one->place, i < PACKETS / 2 ? one->value : one->odd);
        put(queue, packet, sizeof packet, START);
    }
    for (uint32_t i = 0; i < PACKETS; i++) {
        tc_queued *queued = take(queue, START);
        in_order &= number_in(queued->packet) == i;
        free(queued);
    }
    CHECK(row, in_order == one->together, "%s", one->name);
    tc_fairqueue_free(queue);
}

/* Whatever it is given: nothing is read past a packet's end, or lost. */
static void test_garbage(void) {
    enum { PACKETS = 3000 };
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    tc_fairqueue_losses losses = {0};
    uint64_t now = START;
    uint32_t given = 0, got = 0;
    for (; given < PACKETS; given++, now += MS / 10) {
        uint8_t packet[200];
        uint32_t length = 20 + check_below(sizeof packet - 19);
        check_fill(packet, length);
        packet[0] = (uint8_t)((check_below(2) ? 4 : 6) << 4 | (packet[0] & 15));
        CHECK(given, !put(queue, packet, length, now), "dropped");
    }
    for (tc_queued *one; (one = tc_fairqueue_take(queue, TC_CODEL_TARGET, now, &losses)); free(one))
        got++, now += MS / 2;
    CHECK(-1, got + losses.late == given && losses.marked, "%u of %u, %u late, %u marked", got,
          given, losses.late, losses.marked);
    tc_fairqueue_free(queue);
}

/* Nobody is left who wants it: taken or not, it goes. */
static void test_late(void) {
    tc_fairqueue *queue = tc_fairqueue_new(SEED);
    tc_fairqueue_losses losses = {0};
    for (uint32_t i = 0; i < 40; i++)
        put_one(queue, i % 4, i, 1400, START + i * MS);
    uint64_t now = START + TC_FAIRQUEUE_LATEST;
    CHECK(-1, !tc_fairqueue_clear(queue, now), "one that is just in time");
    CHECK(-1, tc_fairqueue_clear(queue, now + 9 * MS + 1) == 10, "not ten");
    now += 19 * MS + 1;
    for (uint32_t got = 0; got < 20; got++) {
        tc_queued *one = tc_fairqueue_take(queue, PATIENT, now, &losses);
        CHECK(got, one && now - one->since <= TC_FAIRQUEUE_LATEST, "too late");
        free(one);
    }
    CHECK(-1, losses.late == 10 && !losses.marked, "%u late", losses.late);
    CHECK(-1, tc_fairqueue_is_empty(queue), "more than forty");
    /* One that knows of marks is not marked but dropped. */
    uint8_t packet[100];
    put(queue, packet, make(packet, 0, 0, sizeof packet, TC_ECN_ECT0), now);
    now += TC_FAIRQUEUE_LATEST + 1;
    CHECK(-1, !tc_fairqueue_take(queue, PATIENT, now, &losses), "too late");
    CHECK(-1, losses.late == 11 && !losses.marked, "%u late", losses.late);
    /* Where all was cleared, what comes next leaves as ever. */
    put_one(queue, 0, 1, 100, now);
    put_one(queue, 1, 2, 100, now);
    CHECK(-1, tc_fairqueue_clear(queue, now + 2 * TC_FAIRQUEUE_LATEST) == 2, "not two");
    CHECK(-1, tc_fairqueue_is_empty(queue), "not empty");
    CHECK(-1, !take(queue, now), "one is left");
    put_one(queue, 0, 4, 100, now); /* what is never taken is freed with the queue */
    tc_fairqueue_free(queue);
    tc_fairqueue_free(NULL);
}

int main(void) {
    for (size_t i = 0; i < ROWS(TRAFFICS); i++)
        test_traffic((long)i, &TRAFFICS[i]);
    test_fairness();
    test_sparse();
    test_no_starving();
    test_overflow();
    for (size_t i = 0; i < ROWS(SORTINGS); i++)
        test_sorting((long)i, &SORTINGS[i]);
    test_garbage();
    test_late();
    return CHECK_DONE();
}
