/* Overwriting secrets in a way that the compiler may not drop. */
#include "core.h"

void tc_wipe(uint8_t *memory, uint32_t length) {
    explicit_bzero(memory, length);
}
