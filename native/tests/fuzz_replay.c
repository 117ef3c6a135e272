/* The input is a session: each step names a counter by its distance to the last, or outright. */
#include "fuzz.h"
#include "models.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input input = {data, size};
    tc_replay replay = {0};
    model_replay model = {0};
    uint64_t counter = fuzz_byte(&input) & 1 ? fuzz_word(&input) : 0;
    for (int steps = 0; input.size && steps < 2000; steps++) {
        uint8_t kind = fuzz_byte(&input);
        uint16_t distance = (uint16_t)(kind >> 3);
        if (kind & 4)
            distance = (uint16_t)(distance << 8 | fuzz_byte(&input));
        switch (kind & 3) {
        case 0:
            counter += distance;
            break;
        case 1:
            counter -= distance;
            break;
        case 2: /* around the edge of the window */
            counter = model.largest - 8128 + distance % 5 - 2;
            break;
        default:
            counter = distance == 0 ? fuzz_word(&input) : model.largest + 8192 * distance;
        }
        MUST(tc_replay_accept(&replay, counter) == model_replay_accept(&model, counter));
    }
    free(model.taken);
    return 0;
}
