/* The kernel's own source with both instructions in their plain form (ifma_model.h). Linked into a
 * test, its functions come before those of the library. */
#include "aead_kernel.h"

#if defined(__x86_64__)

#include "ifma_model.h"

#define _mm512_madd52lo_epu64 ifma_model_lower
#define _mm512_madd52hi_epu64 ifma_model_upper
#include "../src/poly_ifma.c"

bool tc_has_ifma(void) {
    return true;
}

#endif
