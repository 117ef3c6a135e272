/* Short packets by themselves against the reference: every length, and values at which Poly1305
 * carries all the way.
 * usage: test_lone [PACKETS [SEED]]     random packets: 20,000 */
#include "check.h"
#include "lone.h"
#include "reference.h"

#if TC_LONE_USABLE

typedef struct {
    uint8_t key[32], plain[TC_LONE_BYTES], sealed[TC_LONE_BYTES + TC_TAG_BYTES];
} packet;

static void round_trip(packet *p, uint32_t length, uint64_t counter, long row) {
    uint32_t size = length + TC_TAG_BYTES;
    reference_packet(p->key, counter, p->plain, length, p->sealed);
    uint8_t *work = check_copy(p->sealed, size); /* room for both, and not a byte more */
    memcpy(work, p->plain, length);
    tc_aead_job job = {
        .key = p->key, .counter = counter, .in = work, .out = work, .length = length};
    tc_lone_seal(&job);
    CHECK(row, memcmp(work, p->sealed, size) == 0, "sealed, %u bytes", length);
    job.length = size;
    CHECK(row, tc_lone_open(&job), "opened, %u bytes", length);
    CHECK(row, memcmp(work, p->plain, length) == 0, "plaintext, %u bytes", length);
    memcpy(work, p->sealed, size);
    work[check_below(size)] ^= (uint8_t)(1u << check_below(8));
    CHECK(row, !tc_lone_open(&job), "forged, %u bytes", length);
    uint8_t any = 0;
    for (uint32_t i = 0; i < length; i++)
        any |= work[i];
    CHECK(row, !any, "plaintext of a forgery, %u bytes", length);
    free(work);
}

/* Few values a byte, so that limbs of all ones and of zeros come up. */
static void fill(uint8_t *to, size_t length, bool extreme) {
    check_fill(to, length);
    for (size_t i = 0; extreme && i < length; i++)
        to[i] = to[i] & 1 ? 0xff : 0;
}

int main(int argc, char **argv) {
    long wanted = argc > 1 ? atol(argv[1]) : 20000;
    if (argc > 2)
        check_seed(strtoull(argv[2], NULL, 0));
    packet p;
    for (long i = 0; i < wanted; i++) {
        fill(p.key, sizeof p.key, i % 3 == 0);
        fill(p.plain, sizeof p.plain, i % 5 == 0);
        round_trip(&p, (uint32_t)(i % (TC_LONE_BYTES + 1)), check_random(), i);
    }
    return CHECK_DONE();
}

#else

int main(void) {
    return CHECK_DONE();
}

#endif
