/* Calls that the engine does not serve yet. */
#include "core.h"
#include <errno.h>

int tc_engine_new(const tc_options *options, tc_engine **engine) {
    (void)options;
    (void)engine;
    return -ENOSYS;
}

void tc_engine_free(tc_engine *engine) {
    (void)engine;
}

int tc_engine_start(tc_engine *engine) {
    (void)engine;
    return -ENOSYS;
}

int tc_engine_stop(tc_engine *engine) {
    (void)engine;
    return -ENOSYS;
}

int tc_engine_event_fd(const tc_engine *engine) {
    (void)engine;
    return -ENOSYS;
}

int tc_engine_events(tc_engine *engine, tc_event *events, uint32_t count) {
    (void)engine;
    (void)events;
    (void)count;
    return -ENOSYS;
}

int tc_engine_identity(tc_engine *engine, const uint8_t *public_key) {
    (void)engine;
    (void)public_key;
    return -ENOSYS;
}

int tc_engine_cookie_secret(tc_engine *engine, const uint8_t *secret) {
    (void)engine;
    (void)secret;
    return -ENOSYS;
}

int tc_engine_counters(tc_engine *engine, uint64_t *values, uint32_t count) {
    (void)engine;
    (void)values;
    (void)count;
    return -ENOSYS;
}

const char *tc_counter_name(uint32_t index) {
    (void)index;
    return NULL;
}

uint64_t tc_engine_now(const tc_engine *engine) {
    (void)engine;
    return 0;
}

int tc_engine_advance_clock(tc_engine *engine, uint64_t nanoseconds) {
    (void)engine;
    (void)nanoseconds;
    return -ENOSYS;
}

int tc_link_attach(tc_engine *engine, uint32_t worker, int fd, uint32_t flags, uint32_t mtu) {
    (void)engine;
    (void)worker;
    (void)fd;
    (void)flags;
    (void)mtu;
    return -ENOSYS;
}

int tc_link_detach(tc_engine *engine, uint32_t worker) {
    (void)engine;
    (void)worker;
    return -ENOSYS;
}

int tc_link_mtu(tc_engine *engine, uint32_t mtu) {
    (void)engine;
    (void)mtu;
    return -ENOSYS;
}

int tc_outer_attach(tc_engine *engine, uint32_t worker, uint32_t path, int fd4, int fd6) {
    (void)engine;
    (void)worker;
    (void)path;
    (void)fd4;
    (void)fd6;
    return -ENOSYS;
}

int tc_outer_detach(tc_engine *engine, uint32_t path) {
    (void)engine;
    (void)path;
    return -ENOSYS;
}

int tc_peer_add(tc_engine *engine) {
    (void)engine;
    return -ENOSYS;
}

int tc_peer_remove(tc_engine *engine, uint32_t peer) {
    (void)engine;
    (void)peer;
    return -ENOSYS;
}

int tc_peer_info_get(tc_engine *engine, uint32_t peer, tc_peer_info *info) {
    (void)engine;
    (void)peer;
    (void)info;
    return -ENOSYS;
}

int tc_peer_endpoint(tc_engine *engine, uint32_t peer, const tc_endpoint *endpoint) {
    (void)engine;
    (void)peer;
    (void)endpoint;
    return -ENOSYS;
}

int tc_peer_install(tc_engine *engine, uint32_t peer, const tc_keypair *keys) {
    (void)engine;
    (void)peer;
    (void)keys;
    return -ENOSYS;
}

int tc_peer_erase_keys(tc_engine *engine, uint32_t peer, uint32_t which) {
    (void)engine;
    (void)peer;
    (void)which;
    return -ENOSYS;
}

int tc_peer_flush(tc_engine *engine, uint32_t peer) {
    (void)engine;
    (void)peer;
    return -ENOSYS;
}

int tc_peer_drop_staged(tc_engine *engine, uint32_t peer) {
    (void)engine;
    (void)peer;
    return -ENOSYS;
}

int tc_peer_idle(tc_engine *engine, uint32_t peer) {
    (void)engine;
    (void)peer;
    return -ENOSYS;
}

int tc_peer_send(tc_engine *engine, uint32_t peer, const uint8_t *data, uint32_t length,
                 uint8_t ds) {
    (void)engine;
    (void)peer;
    (void)data;
    (void)length;
    (void)ds;
    return -ENOSYS;
}

int tc_send(tc_engine *engine, const tc_endpoint *to, const uint8_t *data, uint32_t length,
            uint8_t ds) {
    (void)engine;
    (void)to;
    (void)data;
    (void)length;
    (void)ds;
    return -ENOSYS;
}

int tc_allowed_add(tc_engine *engine, uint32_t peer, int family, const uint8_t *address,
                   uint32_t prefix) {
    (void)engine;
    (void)peer;
    (void)family;
    (void)address;
    (void)prefix;
    return -ENOSYS;
}

int tc_allowed_remove(tc_engine *engine, uint32_t peer, int family, const uint8_t *address,
                      uint32_t prefix) {
    (void)engine;
    (void)peer;
    (void)family;
    (void)address;
    (void)prefix;
    return -ENOSYS;
}

int tc_allowed_clear(tc_engine *engine, uint32_t peer) {
    (void)engine;
    (void)peer;
    return -ENOSYS;
}

int64_t tc_allowed_find(tc_engine *engine, int family, const uint8_t *address) {
    (void)engine;
    (void)family;
    (void)address;
    return -ENOSYS;
}

int tc_flow_read(int fd, uint32_t link_flags, int units, uint8_t *buffer, uint32_t size,
                 tc_span *spans, uint32_t count) {
    (void)fd;
    (void)link_flags;
    (void)units;
    (void)buffer;
    (void)size;
    (void)spans;
    (void)count;
    return -ENOSYS;
}

int tc_flow_write(int fd, uint32_t link_flags, const uint8_t *buffer, uint32_t size,
                  const tc_span *spans, uint32_t count, uint32_t *refused) {
    (void)fd;
    (void)link_flags;
    (void)buffer;
    (void)size;
    (void)spans;
    (void)count;
    (void)refused;
    return -ENOSYS;
}
