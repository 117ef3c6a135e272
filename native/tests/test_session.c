/* Sessions without a network: counters at their ends, the index table, and secrets that go. */
#include <errno.h>

#include "check.h"
#include "engine.h"

static void test_counters_never_wrap(void) {
    static const struct {
        uint64_t sent;
        uint32_t count;
        bool taken;
    } table[] = {
        {0, 1, true},
        {TC_REKEY_AFTER_MESSAGES, 64, true},
        {TC_REJECT_AFTER_MESSAGES - 1, 1, true},
        {TC_REJECT_AFTER_MESSAGES - 1, 2, false},
        {TC_REJECT_AFTER_MESSAGES - 64, 64, true},
        {TC_REJECT_AFTER_MESSAGES - 64, 65, false},
        {TC_REJECT_AFTER_MESSAGES, 1, false},
        {UINT64_MAX, 1, false},
    };
    tc_vault *vault = tc_vault_new();
    const tc_keypair keys = {.local_index = 1};
    for (size_t i = 0; i < ROWS(table); i++) {
        tc_session *session = tc_session_new(vault, &keys, 0);
        atomic_store(&session->sent, table[i].sent);
        /* Asked again and again, as a busy link does. */
        for (int again = 0; again < 10000 && !table[i].taken; again++) {
            uint64_t first;
            CHECK(i, !tc_session_take(session, table[i].count, &first), "counter taken");
        }
        uint64_t first = 1;
        bool taken = tc_session_take(session, table[i].count, &first);
        CHECK(i, taken == table[i].taken, "taken is %d", taken);
        CHECK(i, !taken || first == table[i].sent, "first is %llu", (unsigned long long)first);
        uint64_t left = atomic_load(&session->sent);
        CHECK(i, left == table[i].sent + (taken ? table[i].count : 0), "counter moved");
        tc_session_free(vault, session);
    }
    tc_vault_free(vault);
}

static void test_ages(void) {
    tc_session session = {.created = 5 * TC_SECOND};
    CHECK(0, !tc_session_expired(&session, 5 * TC_SECOND), "new");
    CHECK(1, !tc_session_expired(&session, 185 * TC_SECOND - 1), "179.999 s");
    CHECK(2, tc_session_expired(&session, 185 * TC_SECOND), "180 s");
}

static void test_secrets_are_wiped(void) {
    tc_vault *vault = tc_vault_new();
    tc_keypair keys;
    memset(&keys, 0xaa, sizeof keys);
    tc_session *session = tc_session_new(vault, &keys, 0);
    const uint8_t *secret = (const uint8_t *)session->keys;
    CHECK(-1, secret[0] == 0xaa && secret[63] == 0xaa, "keys are copied in");
    tc_session_free(vault, session);
    unsigned left = 0;
    for (size_t i = 0; i < sizeof(tc_secret); i++)
        left += secret[i] == 0xaa; /* the slot's page stays mapped while the vault lives */
    CHECK(-1, left <= 1, "%u bytes of a key are left", left);
    tc_vault_free(vault);
}

/* Against the naive model: a flat array. */
static void test_index_table(void) {
    enum { COUNT = 3000 };
    static tc_session *model[COUNT];
    tc_vault *vault = tc_vault_new();
    tc_index_table table;
    CHECK(-1, tc_index_init(&table) == 0, "init");
    for (long i = 0; i < 20000; i++) {
        uint32_t slot = check_below(COUNT);
        uint32_t index = slot * 64; /* the same bucket at first */
        if (model[slot] && check_below(2)) {
            tc_keypair again = {.local_index = index};
            tc_session *twin = tc_session_new(vault, &again, 0);
            CHECK(i, tc_index_add(&table, twin) == -EEXIST, "a twin was added");
            tc_session_free(vault, twin);
            tc_index_remove(&table, model[slot]);
            tc_session_free(vault, model[slot]);
            model[slot] = NULL;
        } else if (!model[slot]) {
            tc_keypair keys = {.local_index = index};
            model[slot] = tc_session_new(vault, &keys, 0);
            CHECK(i, tc_index_add(&table, model[slot]) == 0, "not added");
        }
        uint32_t other = check_below(COUNT);
        CHECK(i, tc_index_find(&table, other * 64) == model[other], "slot %u", other);
        CHECK(i, !tc_index_find(&table, other * 64 + 1), "an index nobody has");
    }
    for (uint32_t i = 0; i < COUNT; i++)
        tc_session_free(vault, model[i]);
    tc_index_free(&table);
    tc_vault_free(vault);
}

/* The messages limits through the whole sender: nobody can send 2^60 packets in a test. */
static void test_message_limits(void) {
    static const struct {
        uint64_t sent;
        bool initiator, handshake, staged;
    } table[] = {
        {0, true, false, false},
        {UINT64_C(1) << 32, true, false, false},
        {TC_REKEY_AFTER_MESSAGES - 1, false, false, false},
        {TC_REKEY_AFTER_MESSAGES, false, true, false},
        {TC_REKEY_AFTER_MESSAGES, true, true, false},
        {TC_REJECT_AFTER_MESSAGES - 1, false, true, false},
        {TC_REJECT_AFTER_MESSAGES, false, true, true},
    };
    static const uint8_t packet[20] = {0x45, 0, 0, 20, [8] = 64, [12] = 10, [16] = 10};
    static const uint8_t any[4];
    for (size_t i = 0; i < ROWS(table); i++) {
        tc_engine *engine;
        tc_options options = {.workers = 1, .ring_slots = 64};
        CHECK(i, tc_engine_new(&options, &engine) == 0, "engine");
        CHECK(i, tc_peer_add(engine) == 0 && !tc_allowed_add(engine, 0, 4, any, 0), "peer");
        tc_endpoint nowhere = {.family = 4, .port = 9, .address = {127, 0, 0, 1}};
        tc_keypair keys = {.local_index = 1, .initiator = 1};
        tc_peer_endpoint(engine, 0, &nowhere);
        tc_peer_install(engine, 0, &keys);
        tc_session *session = engine->peers[0]->current;
        session->initiator = table[i].initiator;
        atomic_store(&session->sent, table[i].sent);
        tc_unit unit;
        CHECK(i, tc_unit_open(&unit, NULL, packet, sizeof packet) == 0, "unit");
        engine->sender.batch.now = tc_engine_now(engine);
        tc_sender_unit(&engine->sender, &unit);
        CHECK(i, table[i].staged || tc_get_le64(engine->sender.buffer + 8) == table[i].sent,
              "the header's counter");
        tc_sender_flush(&engine->sender);
        tc_event event = {0};
        int events = tc_engine_events(engine, &event, 1);
        CHECK(i, (events == 1 && event.kind == TC_EVENT_HANDSHAKE_NEEDED) == table[i].handshake,
              "%d events", events);
        CHECK(i, engine->peers[0]->staged == table[i].staged, "staged");
        tc_engine_free(engine);
    }
}

int main(void) {
    test_counters_never_wrap();
    test_ages();
    test_secrets_are_wiped();
    test_index_table();
    test_message_limits();
    return CHECK_DONE();
}
