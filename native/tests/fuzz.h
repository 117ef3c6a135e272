/* What the fuzz targets share: input taken from the front, and a check that aborts. */
#ifndef TC_FUZZ_H
#define TC_FUZZ_H

#include <stdio.h>
#include <stdlib.h>

#include "core.h"
#include "must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *data;
    size_t size;
} fuzz_input;

/* Zeros once the input has run out. */
static inline uint8_t fuzz_byte(fuzz_input *input) {
    if (!input->size)
        return 0;
    input->size--;
    return *input->data++;
}

static inline void fuzz_bytes(fuzz_input *input, uint8_t *to, size_t length) {
    for (size_t i = 0; i < length; i++)
        to[i] = fuzz_byte(input);
}

static inline uint64_t fuzz_word(fuzz_input *input) {
    uint8_t bytes[8];
    fuzz_bytes(input, bytes, sizeof bytes);
    return tc_get_le64(bytes);
}

#endif
