/* The AEAD's interface without an AEAD, for bench/plaintext.py: a copy, and a tag of zeros that is
 * always right. It is linked in place of native/src/aead*.c in a build of its own; the module that
 * ships has no way to do this. */
#include <stdlib.h>

#include "aead.h"

struct tc_aead {
    uint8_t nothing;
};

const char *tc_crypto_name(uint32_t flags) {
    (void)flags;
    return "plaintext";
}

tc_aead *tc_aead_new(uint32_t flags) {
    (void)flags;
    return calloc(1, sizeof(tc_aead));
}

void tc_aead_free(tc_aead *aead) {
    free(aead);
}

int tc_aead_seal(tc_aead *aead, tc_aead_job *jobs, size_t count) {
    (void)aead;
    for (size_t i = 0; i < count; i++) {
        if (jobs[i].out != jobs[i].in)
            memmove(jobs[i].out, jobs[i].in, jobs[i].length);
        memset(jobs[i].out + jobs[i].length, 0, TC_TAG_BYTES);
    }
    return 0;
}

size_t tc_aead_open(tc_aead *aead, tc_aead_job *jobs, size_t count) {
    (void)aead;
    size_t right = 0;
    for (size_t i = 0; i < count; i++) {
        jobs[i].ok = jobs[i].length >= TC_TAG_BYTES;
        if (jobs[i].ok && jobs[i].out != jobs[i].in)
            memmove(jobs[i].out, jobs[i].in, jobs[i].length - TC_TAG_BYTES);
        right += jobs[i].ok;
    }
    return right;
}

/* One packet, for Python: not needed by a tunnel. */
int tc_seal(const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length,
            uint8_t *out) {
    (void)key, (void)counter;
    memmove(out, in, length);
    memset(out + length, 0, TC_TAG_BYTES);
    return 0;
}

int tc_open(const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length,
            uint8_t *out) {
    (void)key, (void)counter;
    memmove(out, in, length - TC_TAG_BYTES);
    return 0;
}
