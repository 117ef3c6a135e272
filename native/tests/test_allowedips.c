/* Allowed IPs: a table of the rules, random operations against the naive model at several
 * densities (dense ones make fans), and a table of 100,000 prefixes. */
#include "check.h"
#include "models.h"

#include <errno.h>

typedef enum { ADD, REMOVE, REMOVE_PEER, FIND } step_kind;

typedef struct {
    step_kind kind;
    int family;
    uint8_t address[16];
    uint32_t prefix;
    uint32_t peer;
    int64_t expected;
} step;

#define NOBODY ((int64_t)TC_NO_PEER)

static const step STEPS[] = {
    {FIND, 4, {10, 0, 0, 1}, 0, 0, NOBODY},
    {ADD, 4, {10, 0, 0, 0}, 8, 1, 0},
    {FIND, 4, {10, 255, 255, 255}, 0, 0, 1},
    {FIND, 4, {11, 0, 0, 0}, 0, 0, NOBODY},
    {FIND, 6, {10, 0, 0, 1}, 0, 0, NOBODY}, /* families do not mix */
    {ADD, 4, {10, 1, 2, 3}, 16, 2, 0},      /* host bits are ignored */
    {FIND, 4, {10, 1, 200, 1}, 0, 0, 2},
    {FIND, 4, {10, 2, 0, 1}, 0, 0, 1},
    {ADD, 4, {0}, 0, 3, 0}, /* everything */
    {FIND, 4, {192, 0, 2, 1}, 0, 0, 3},
    {ADD, 4, {10, 1, 2, 3}, 32, 4, 0},
    {FIND, 4, {10, 1, 2, 3}, 0, 0, 4},
    {FIND, 4, {10, 1, 2, 2}, 0, 0, 2},
    {ADD, 4, {10, 1, 0, 0}, 16, 5, 0}, /* the newest claim wins */
    {FIND, 4, {10, 1, 200, 1}, 0, 0, 5},
    {REMOVE, 4, {10, 1, 0, 0}, 16, 2, -ENOENT}, /* no longer its */
    {FIND, 4, {10, 1, 200, 1}, 0, 0, 5},
    {REMOVE, 4, {10, 1, 77, 0}, 16, 5, 0},
    {FIND, 4, {10, 1, 200, 1}, 0, 0, 1},
    {REMOVE, 4, {10, 1, 0, 0}, 16, 5, -ENOENT},
    {REMOVE, 4, {10, 1, 0, 0}, 17, 4, -ENOENT},          /* a place on the way to its prefix */
    {REMOVE, 4, {10, 1, 0, 0}, 15, TC_NO_PEER, -ENOENT}, /* nobody is no peer */
    {REMOVE_PEER, 4, {0}, 0, 3, 0},
    {FIND, 4, {192, 0, 2, 1}, 0, 0, NOBODY},
    {FIND, 4, {10, 1, 2, 3}, 0, 0, 4},
    {ADD, 4, {1, 2, 3, 4}, 33, 1, -EINVAL},
    {ADD, 6, {0xfd}, 129, 1, -EINVAL},
    {ADD, 5, {1}, 8, 1, -EINVAL},
    {REMOVE, 4, {1, 2, 3, 4}, 33, 1, -EINVAL},
    {ADD, 6, {0xfd, 0, 0, 1}, 32, 6, 0},
    {ADD, 6, {0xfd, 0, 0, 1, 0, 0, 0, 9}, 64, 7, 0},
    {ADD, 6, {0xfd, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1}, 128, 8, 0},
    {FIND, 6, {0xfd, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 0, 8},
    {FIND, 6, {0xfd, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2}, 0, 0, 7},
    {FIND, 6, {0xfd, 0, 0, 1, 0, 0, 0, 8}, 0, 0, 6},
    {FIND, 6, {0xfd, 0, 0, 2}, 0, 0, NOBODY},
    {REMOVE_PEER, 6, {0}, 0, 7, 0},
    {FIND, 6, {0xfd, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2}, 0, 0, 6},
    {REMOVE_PEER, 6, {0}, 0, 4000000, 0}, /* a peer that never was */
};

static int64_t perform(tc_allowedips *table, const step *s) {
    switch (s->kind) {
    case ADD:
        return tc_allowedips_add(table, s->family, s->address, s->prefix, s->peer);
    case REMOVE:
        return tc_allowedips_remove(table, s->family, s->address, s->prefix, s->peer);
    case REMOVE_PEER:
        tc_allowedips_remove_peer(table, s->peer);
        return 0;
    default:
        return table_find(table, s->family, s->address);
    }
}

static void test_rules(void) {
    tc_allowedips *table = tc_allowedips_new();
    for (size_t i = 0; i < ROWS(STEPS); i++) {
        int64_t got = perform(table, &STEPS[i]);
        CHECK(i, got == STEPS[i].expected, "answered %ld, not %ld", (long)got,
              (long)STEPS[i].expected);
    }
    CHECK(-1, tc_allowedips_count(table) == 4, "holds %zu", tc_allowedips_count(table));
    tc_allowedips_free(table);
}

/* Addresses that agree in their first bits and have few values per byte collide often; `fixed`
 * bytes of agreement put the density anywhere in the key. */
static void make_address(uint8_t address[16], uint32_t fixed, uint32_t values) {
    memset(address, 0xab, 16);
    for (uint32_t i = fixed; i < 16; i++)
        address[i] = (uint8_t)(check_below(values) * (256 / values));
}

static void test_random(uint32_t fixed, uint32_t values, uint32_t removals, int rounds) {
    static model_allowedips model;
    model.count = 0;
    tc_allowedips *table = tc_allowedips_new();
    for (int round = 0; round < rounds; round++) {
        int family = fixed < 4 && check_below(2) ? 4 : 6;
        uint8_t address[16];
        uint32_t width = family == 4 ? 32 : 128, first = fixed * 8 < width ? fixed * 8 : 0;
        uint32_t prefix = first + check_below(width + 1 - first), peer = check_below(9);
        make_address(address, fixed, values);
        if (check_below(100) >= removals) {
            if (model_allowedips_add(&model, family, address, prefix, peer))
                CHECK(round, tc_allowedips_add(table, family, address, prefix, peer) == 0, "add");
        } else if (model.count && check_below(2)) {
            size_t row = check_below((uint32_t)model.count);
            memcpy(address, model.rows[row].address, 16);
            family = model.rows[row].family;
            prefix = model.rows[row].prefix;
            peer = model.rows[row].peer;
            model_allowedips_remove(&model, family, address, prefix, peer);
            CHECK(round, tc_allowedips_remove(table, family, address, prefix, peer) == 0,
                  "remove of /%u", prefix);
        } else if (check_below(200) == 0) {
            tc_allowedips_remove_peer(table, peer);
            model_allowedips_remove_peer(&model, peer);
        } else {
            bool removed = model_allowedips_remove(&model, family, address, prefix, peer);
            int got = tc_allowedips_remove(table, family, address, prefix, peer);
            CHECK(round, got == (removed ? 0 : -ENOENT), "remove of any: %d", got);
        }
        CHECK(round, tc_allowedips_count(table) == model.count, "holds %zu, not %zu",
              tc_allowedips_count(table), model.count);
        for (int i = 0; i < 3; i++) {
            make_address(address, fixed, values);
            if (i == 2) /* off the beaten track in one place */
                address[check_below(16)] ^= (uint8_t)(1u << check_below(8));
            uint32_t expected = model_allowedips_find(&model, family, address);
            uint32_t got = table_find(table, family, address);
            CHECK(round, got == expected, "IPv%d look-up gave %u, not %u", family, got, expected);
        }
    }
    for (uint32_t peer = 0; peer < 9; peer++)
        tc_allowedips_remove_peer(table, peer);
    CHECK(-1, tc_allowedips_count(table) == 0, "%zu are left", tc_allowedips_count(table));
    uint8_t address[16] = {0xab, 0xab, 0xab, 0xab};
    CHECK(-1, table_find(table, 6, address) == TC_NO_PEER, "an empty table answers");
    tc_allowedips_free(table);
}

static void big_address(uint32_t i, uint8_t address[4]) {
    tc_put_be32(address, i * UINT32_C(2654435761)); /* odd, so no two are alike */
}

static void test_many(void) {
    enum { PREFIXES = 100000, PEERS = 10000 };
    tc_allowedips *table = tc_allowedips_new();
    uint8_t address[4];
    for (uint32_t i = 0; i < PREFIXES; i++) {
        big_address(i, address);
        CHECK(i, tc_allowedips_add(table, 4, address, 32, i % PEERS) == 0, "add");
    }
    for (uint32_t i = 0; i < PREFIXES; i++) {
        big_address(i, address);
        CHECK(i, tc_allowedips_find4(table, address) == i % PEERS, "find");
    }
    for (uint32_t peer = 0; peer < PEERS; peer += 2)
        tc_allowedips_remove_peer(table, peer);
    CHECK(-1, tc_allowedips_count(table) == PREFIXES / 2, "half are left");
    for (uint32_t i = 0; i < PREFIXES; i++) {
        big_address(i, address);
        uint32_t expected = i % 2 ? i % PEERS : TC_NO_PEER;
        CHECK(i, tc_allowedips_find4(table, address) == expected, "find after removal");
    }
    tc_allowedips_free(table);
}

int main(void) {
    test_rules();
    test_random(0, 4, 40, 8000);
    test_random(0, 256, 30, 2000);
    test_random(2, 8, 25, 8000);  /* fans in both families */
    test_random(7, 16, 25, 5000); /* fans across the middle of the key */
    test_random(14, 64, 45, 10000);
    test_random(15, 128, 50, 10000);
    test_many();
    return CHECK_DONE();
}
