/* The two instructions of AVX-512 IFMA for processors without them: a handler of SIGILL reads the
 * instruction and does what it would have done to the registers that the signal saved, so that the
 * code that is tested is the compiled one. Linking it makes tc_has_ifma() true. Where the processor
 * has the instructions they run, and the handler is not installed. */
#ifndef TC_IFMA_EMULATOR_H
#define TC_IFMA_EMULATOR_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__x86_64__)

/* One lane, as Intel's manual describes it: the lower or upper 52 bits of the product of the
 * factors' lower 52 bits are added. */
static inline uint64_t ifma_lane(bool upper, uint64_t sum, uint64_t a, uint64_t b) {
    const uint64_t mask = (UINT64_C(1) << 52) - 1;
    unsigned __int128 product = (unsigned __int128)(a & mask) * (b & mask);
    return sum + ((uint64_t)(upper ? product >> 52 : product) & mask);
}

/* How many instructions have been emulated: tests see by it that what they test was run. */
uint64_t ifma_emulated(void);

#endif
#endif
