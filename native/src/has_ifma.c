/* In a file of its own, so that a test which emulates these instructions can put its own answer in
 * its place when it is linked (native/tests/ifma_emulator.c). */
#include "aead_kernel.h"

#if defined(__x86_64__)

bool tc_has_ifma(void) {
    return __builtin_cpu_supports("avx512ifma");
}

#endif
