/* The input is a datagram from anybody, or, with an odd first byte, what a peer with the right keys
 * has sealed. An engine that does not run takes it, and none of it may do harm. */
#include <fcntl.h>

#include "engine.h"
#include "fuzz.h"

static tc_engine *engine;
static tc_aead *aead;
static uint64_t counter;
static const tc_keypair keys = {.local_index = 1, .remote_index = 2, .initiator = 1};

static void set_up(void) {
    tc_options options = {.workers = 1, .ring_slots = 64};
    const uint8_t any[16] = {0}, key[32] = {1};
    MUST(tc_engine_new(&options, &engine) == 0);
    MUST(tc_engine_identity(engine, key) == 0 && tc_engine_cookie_secret(engine, key) == 0);
    MUST(tc_peer_add(engine) == 0 && tc_peer_install(engine, 0, &keys) == 0);
    MUST(tc_allowed_add(engine, 0, 4, any, 0) == 0 && tc_allowed_add(engine, 0, 6, any, 0) == 0);
    engine->workers[0].link =
        (tc_link){.fd = open("/dev/null", O_WRONLY), .flags = TC_LINK_VNET_HDR | TC_LINK_USO};
    aead = tc_aead_new(0);
    MUST(aead);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!engine)
        set_up();
    if (size < 2 || size > TC_UNIT_MAX)
        return 0;
    tc_receiver *receiver = &engine->workers[0].receiver;
    tc_arrival arrival = {.from = {.family = 4, .port = 9, .address = {127, 0, 0, 1}},
                          .ds = data[1]};
    bool sealed = data[0] & 1;
    uint32_t length = (uint32_t)size - 2;
    uint8_t *datagram = malloc(length + TC_DATA_OVERHEAD);
    MUST(datagram);
    receiver->now = tc_engine_now(engine);
    if (sealed) {
        uint8_t *packet = datagram + TC_DATA_HEADER;
        memcpy(packet, data + 2, length);
        tc_put_le32(datagram, 4);
        tc_put_le32(datagram + 4, keys.local_index);
        tc_put_le64(datagram + 8, counter);
        tc_aead_job job = {.key = keys.receive_key,
                           .counter = counter++,
                           .in = packet,
                           .out = packet,
                           .length = length};
        MUST(tc_aead_seal(aead, &job, 1) == 0);
        length += TC_DATA_OVERHEAD;
    } else {
        memcpy(datagram, data + 2, length);
    }
    tc_receiver_datagram(receiver, datagram, length, &arrival);
    free(datagram);
    tc_event events[64];
    MUST(tc_engine_events(engine, events, 64) >= 0);
    return 0;
}
