/* Congestion marks: the bits that change, and the checksum that goes with them. */
#include "check.h"
#include "checksum.h"
#include "ecn.h"

static const uint8_t ECNS[] = {TC_ECN_NONE, TC_ECN_ECT1, TC_ECN_ECT0, TC_ECN_CE};

/* What a packet shows of it, for each that RFC 6040, figure 4, folds in; DROP where it may not. */
enum { DROP = 9 };
static const uint8_t FOLDED[4][4] = {
    {TC_ECN_NONE, TC_ECN_NONE, TC_ECN_NONE, DROP},
    {TC_ECN_ECT1, TC_ECN_ECT1, TC_ECN_ECT1, TC_ECN_CE},
    {TC_ECN_ECT0, TC_ECN_ECT1, TC_ECN_ECT0, TC_ECN_CE},
    {TC_ECN_CE, TC_ECN_CE, TC_ECN_CE, TC_ECN_CE},
};

static void make(uint8_t *p, int version, uint8_t ecn) {
    check_fill(p, 60);
    p[0] = (uint8_t)(version == 4 ? 0x45 : 0x60 | (p[0] & 15));
    p[1] = (uint8_t)(version == 4 ? (p[1] & ~3) | ecn : (p[1] & ~0x30) | ecn << 4);
    if (version == 6)
        return;
    tc_put_be16(p + 10, 0);
    uint16_t sum = (uint16_t)~tc_checksum_fold(tc_checksum_add(0, p, 20));
    memcpy(p + 10, &sum, 2);
}

/* Nothing but the mark changes, and of IPv4 the checksum. */
static void check_rest(long row, int version, const uint8_t *before, const uint8_t *after) {
    uint8_t same[60];
    memcpy(same, after, sizeof same);
    uint8_t mask = version == 4 ? 3 : 0x30;
    same[1] = (uint8_t)((same[1] & ~mask) | (before[1] & mask));
    if (version == 4) {
        memcpy(same + 10, before + 10, 2);
        uint16_t sum = tc_checksum_fold(tc_checksum_add(0, after, 20));
        CHECK(row, sum == 0xffff, "checksum %x", sum);
    }
    CHECK(row, !memcmp(same, before, sizeof same), "IPv%d: something else changed", version);
}

static void test_marks(int version) {
    for (long round = 0; round < 1000; round++) {
        uint8_t inner = (uint8_t)(round % 4), outer = ECNS[round / 4 % 4];
        uint8_t before[60], after[60], *packet = after;
        make(before, version, inner);
        memcpy(after, before, sizeof after);
        uint8_t expected = FOLDED[inner][outer];
        CHECK(round, tc_ecn_fold(packet, outer) == (expected != DROP), "%u in %u", inner, outer);
        CHECK(round, tc_ecn_of(packet) == (expected == DROP ? inner : expected), "%u in %u", inner,
              outer);
        check_rest(round, version, before, after);
        memcpy(after, before, sizeof after);
        CHECK(round, tc_ecn_mark(packet) == (inner != TC_ECN_NONE), "%u", inner);
        CHECK(round, tc_ecn_of(packet) == (inner ? TC_ECN_CE : TC_ECN_NONE), "%u", inner);
        check_rest(round, version, before, after);
    }
}

int main(void) {
    test_marks(4);
    test_marks(6);
    return CHECK_DONE();
}
