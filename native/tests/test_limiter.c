/* The limiter: rate and burst by a table of times, what counts as one sender, and a full table. */
#include "check.h"
#include "limiter.h"

#define MS UINT64_C(1000000)

static tc_endpoint ipv4(uint32_t address) {
    tc_endpoint from = {.family = 4, .port = 1000};
    tc_put_be32(from.address, address);
    return from;
}

static tc_endpoint ipv6(uint64_t network, uint64_t host) {
    tc_endpoint from = {.family = 6, .port = 1000};
    tc_put_be32(from.address, (uint32_t)(network >> 32));
    tc_put_be32(from.address + 4, (uint32_t)network);
    tc_put_be32(from.address + 8, (uint32_t)(host >> 32));
    tc_put_be32(from.address + 12, (uint32_t)host);
    return from;
}

/* 20 a second, that is one in 50 ms, and a burst of 5 from the first message on. */
static const struct {
    uint64_t at;
    bool allowed;
} TIMES[] = {
    {0, true},          {0, true},          {0, true},           {0, true},
    {0, true},          {0, false},         {49 * MS, false},    {50 * MS, true},
    {50 * MS, false},   {99 * MS, false},   {150 * MS, true},    {150 * MS, true},
    {150 * MS, false},  {149 * MS, false}, /* a clock read earlier, used later, gives no credit */
    {150 * MS, false},  {10000 * MS, true}, {10000 * MS, true},  {10000 * MS, true},
    {10000 * MS, true}, {10000 * MS, true}, {10000 * MS, false},
};

static void test_times(tc_endpoint from) {
    tc_limiter *limiter = tc_limiter_new(1);
    for (size_t i = 0; i < ROWS(TIMES); i++) {
        bool got = tc_limiter_allow(limiter, &from, 1000 * MS + TIMES[i].at);
        CHECK(i, got == TIMES[i].allowed, "family %d at %llu ns", from.family,
              (unsigned long long)TIMES[i].at);
    }
    tc_limiter_free(limiter);
}

static bool exhausted(tc_limiter *limiter, tc_endpoint from) {
    return !tc_limiter_allow(limiter, &from, MS);
}

static void test_senders(void) {
    tc_limiter *limiter = tc_limiter_new(2);
    tc_endpoint from = ipv6(7, 1);
    for (int i = 0; i < TC_LIMITER_BURST; i++)
        tc_limiter_allow(limiter, &from, MS);
    CHECK(1, exhausted(limiter, ipv6(7, 1)), "the same address");
    CHECK(2, exhausted(limiter, ipv6(7, 99)), "the same /64");
    CHECK(3, !exhausted(limiter, ipv6(8, 1)), "another /64");
    CHECK(4, !exhausted(limiter, ipv4(7)), "IPv4 with the same number");
    from = ipv4(9);
    for (int i = 0; i < TC_LIMITER_BURST; i++)
        tc_limiter_allow(limiter, &from, MS);
    from.port = 2000;
    CHECK(5, exhausted(limiter, from), "another port is the same sender");
    CHECK(6, !exhausted(limiter, ipv4(10)), "the next address is not");
    tc_limiter_free(limiter);
}

/* Many more addresses than there is room for: some are refused, never more than the table holds
 * pass, none of those in use is displaced, and room comes back with time. */
static void test_full(void) {
    enum { SENDERS = 4 * TC_LIMITER_ENTRIES };
    static bool passed[SENDERS];
    tc_limiter *limiter = tc_limiter_new(3);
    uint32_t allowed = 0;
    for (uint32_t i = 0; i < SENDERS; i++) {
        tc_endpoint from = ipv6(i * UINT64_C(0x10001), 0);
        allowed += passed[i] = tc_limiter_allow(limiter, &from, MS);
    }
    CHECK(1, allowed <= TC_LIMITER_ENTRIES, "%u passed", allowed);
    CHECK(2, allowed > TC_LIMITER_ENTRIES * 9 / 10, "%u passed", allowed);
    for (uint32_t i = 0; i < SENDERS; i++) {
        tc_endpoint from = ipv6(i * UINT64_C(0x10001), 0);
        for (int more = 1; more < TC_LIMITER_BURST; more++)
            CHECK(i, tc_limiter_allow(limiter, &from, MS) == passed[i], "its bucket stays");
        CHECK(i, !tc_limiter_allow(limiter, &from, MS), "and has a bottom");
    }
    uint32_t later = 0;
    for (uint32_t i = 0; i < TC_LIMITER_ENTRIES / 4; i++) {
        tc_endpoint from = ipv4(i);
        later += tc_limiter_allow(limiter, &from, MS + 249 * MS);
    }
    CHECK(3, later < TC_LIMITER_ENTRIES / 16, "%u passed before a bucket refilled", later);
    later = 0;
    for (uint32_t i = 0; i < TC_LIMITER_ENTRIES / 4; i++) {
        tc_endpoint from = ipv4(i);
        later += tc_limiter_allow(limiter, &from, MS + 251 * MS);
    }
    CHECK(4, later > TC_LIMITER_ENTRIES / 4 * 99 / 100, "%u passed afterwards", later);
    tc_limiter_free(limiter);
}

int main(void) {
    test_times(ipv4(0xc0000201));
    test_times(ipv4(0));
    test_times(ipv6(0, 1));
    test_times(ipv6(UINT64_C(0x20010db800000000), 1));
    test_senders();
    test_full();
    return CHECK_DONE();
}
