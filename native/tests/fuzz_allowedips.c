/* The input is a list of operations on the table and on the naive model. Prefixes come alone or as
 * a run of neighbours, which is what crowds a place until it gets a fan. */
#include "fuzz.h"
#include "models.h"

typedef struct {
    int family;
    uint8_t address[16];
    uint32_t prefix, peer;
} operand;

static model_allowedips model;

static operand take(fuzz_input *input, uint8_t kind) {
    operand o = {.family = kind & 0x80 ? 6 : 4};
    uint32_t width = o.family == 4 ? 32 : 128;
    uint8_t bytes = fuzz_byte(input) % 17;
    fuzz_bytes(input, o.address, o.family == 4 && bytes > 4 ? 4 : bytes);
    o.prefix = fuzz_byte(input) % (width + 1);
    o.peer = fuzz_byte(input) % 8;
    return o;
}

static void look(const tc_allowedips *table, const operand *o) {
    MUST(table_find(table, o->family, o->address) ==
         model_allowedips_find(&model, o->family, o->address));
}

/* Adds one to the address at the end of the prefix. */
static void next_neighbour(operand *o) {
    for (uint32_t place = o->prefix; place-- > 0;) {
        o->address[place / 8] ^= (uint8_t)(0x80 >> place % 8);
        if (o->address[place / 8] & 0x80 >> place % 8)
            break;
    }
}

static void run(tc_allowedips *table, operand o, uint8_t count, bool add) {
    for (int i = 0; i <= count; i++, next_neighbour(&o)) {
        if (!add)
            MUST((tc_allowedips_remove(table, o.family, o.address, o.prefix, o.peer) == 0) ==
                 model_allowedips_remove(&model, o.family, o.address, o.prefix, o.peer));
        else if (model_allowedips_add(&model, o.family, o.address, o.prefix, o.peer))
            MUST(tc_allowedips_add(table, o.family, o.address, o.prefix, o.peer) == 0);
        look(table, &o);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input input = {data, size};
    tc_allowedips *table = tc_allowedips_new();
    MUST(table);
    model.count = 0;
    for (int steps = 0; input.size && steps < 100; steps++) {
        uint8_t kind = fuzz_byte(&input);
        operand o = take(&input, kind);
        switch (kind & 7) {
        case 0:
            tc_allowedips_remove_peer(table, o.peer);
            model_allowedips_remove_peer(&model, o.peer);
            break;
        case 1:
        case 2:
            run(table, o, 0, kind & 1);
            break;
        case 3:
        case 4:
            run(table, o, fuzz_byte(&input), kind & 1);
            break;
        default:
            break;
        }
        MUST(tc_allowedips_count(table) == model.count);
        look(table, &o);
        o.address[o.peer] ^= kind;
        look(table, &o);
    }
    for (size_t i = 0; i < model.count; i++) {
        operand o = {.family = model.rows[i].family};
        memcpy(o.address, model.rows[i].address, 16);
        look(table, &o);
    }
    tc_allowedips_free(table);
    return 0;
}
