/* The slow and obvious forms of the replay window and of allowed IPs: what tests and fuzz targets
 * hold the real ones against. */
#ifndef TC_MODELS_H
#define TC_MODELS_H

#include "allowedips.h"
#include "replay.h"

/* ---- replay: every counter that was taken, in a list ---- */

typedef struct {
    uint64_t *taken;
    size_t count, capacity;
    uint64_t largest;
} model_replay;

static inline bool model_replay_accept(model_replay *model, uint64_t counter) {
    if (counter >= TC_REJECT_AFTER_MESSAGES)
        return false;
    if (model->count && counter < model->largest && model->largest - counter > 8128)
        return false;
    for (size_t i = model->count; i-- > 0;)
        if (model->taken[i] == counter)
            return false;
    if (model->count == model->capacity) {
        model->capacity = model->capacity ? model->capacity * 2 : 256;
        model->taken = realloc(model->taken, model->capacity * sizeof *model->taken);
        if (!model->taken)
            abort();
    }
    model->taken[model->count++] = counter;
    if (counter > model->largest)
        model->largest = counter;
    return true;
}

/* ---- allowed IPs: an unordered list, searched whole ---- */

enum { MODEL_PREFIXES = 4096 };

typedef struct {
    struct {
        int family;
        uint8_t address[16]; /* host bits zero, and the rest of the 16 for IPv4 */
        uint32_t prefix, peer;
    } rows[MODEL_PREFIXES];
    size_t count;
} model_allowedips;

static inline bool model_agree(const uint8_t *a, const uint8_t *b, uint32_t bits) {
    uint32_t rest = bits % 8;
    return memcmp(a, b, bits / 8) == 0 && (!rest || (a[bits / 8] ^ b[bits / 8]) >> (8 - rest) == 0);
}

static inline void model_network(int family, const uint8_t *address, uint32_t prefix,
                                 uint8_t network[16]) {
    memset(network, 0, 16);
    memcpy(network, address, family == 4 ? 4 : 16);
    for (uint32_t place = prefix; place < 128; place++)
        network[place / 8] &= (uint8_t) ~(0x80 >> place % 8);
}

static inline size_t model_row(const model_allowedips *model, int family, const uint8_t *address,
                               uint32_t prefix) {
    uint8_t network[16];
    model_network(family, address, prefix, network);
    size_t i = 0;
    while (i < model->count &&
           (model->rows[i].family != family || model->rows[i].prefix != prefix ||
            memcmp(model->rows[i].address, network, 16) != 0))
        i++;
    return i;
}

/* False when the model is full: the real table is then left alone as well. */
static inline bool model_allowedips_add(model_allowedips *model, int family, const uint8_t *address,
                                        uint32_t prefix, uint32_t peer) {
    size_t i = model_row(model, family, address, prefix);
    if (i == MODEL_PREFIXES)
        return false;
    if (i == model->count) {
        model->count++;
        model->rows[i].family = family;
        model->rows[i].prefix = prefix;
        model_network(family, address, prefix, model->rows[i].address);
    }
    model->rows[i].peer = peer;
    return true;
}

static inline bool model_allowedips_remove(model_allowedips *model, int family,
                                           const uint8_t *address, uint32_t prefix, uint32_t peer) {
    size_t i = model_row(model, family, address, prefix);
    if (i == model->count || model->rows[i].peer != peer)
        return false;
    model->rows[i] = model->rows[--model->count];
    return true;
}

static inline void model_allowedips_remove_peer(model_allowedips *model, uint32_t peer) {
    for (size_t i = 0; i < model->count;) {
        if (model->rows[i].peer == peer)
            model->rows[i] = model->rows[--model->count];
        else
            i++;
    }
}

static inline uint32_t model_allowedips_find(const model_allowedips *model, int family,
                                             const uint8_t *address) {
    uint32_t best = TC_NO_PEER;
    int longest = -1;
    for (size_t i = 0; i < model->count; i++) {
        uint32_t prefix = model->rows[i].prefix;
        if (model->rows[i].family == family && (int)prefix > longest &&
            model_agree(address, model->rows[i].address, prefix)) {
            longest = (int)prefix;
            best = model->rows[i].peer;
        }
    }
    return best;
}

static inline uint32_t table_find(const tc_allowedips *table, int family, const uint8_t *address) {
    return family == 4 ? tc_allowedips_find4(table, address) : tc_allowedips_find6(table, address);
}

#endif
