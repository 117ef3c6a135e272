/* The input is a batch: for each packet its length, key, counter, place and whether it is forged.
 * All ways of computing it must agree with libcrypto. */
#include "aead.h"
#include "fuzz.h"
#include "reference.h"

enum { PACKETS = 40, LARGEST = 2047, CHOICES = 4 };

typedef struct {
    uint8_t key[32];
    uint64_t counter;
    uint32_t length;
    uint8_t gap, forge;
    uint8_t plain[LARGEST], sealed[LARGEST + TC_TAG_BYTES];
} packet;

static packet packets[PACKETS];
static tc_aead *aeads[CHOICES];
static uint8_t memory[PACKETS * (LARGEST + TC_TAG_BYTES + 256)];

static size_t read_batch(fuzz_input *input) {
    size_t count = 0;
    while (input->size && count < PACKETS) {
        packet *p = &packets[count];
        uint8_t kind = fuzz_byte(input);
        if (count && kind & 1)
            *p = packets[count - 1]; /* the same key, length and text, but for what follows */
        else
            memset(p, 0, sizeof *p);
        if (kind & 2)
            fuzz_bytes(input, p->key, 32);
        p->counter = kind & 4 ? fuzz_word(input) : count;
        if (kind & 8)
            p->length = (fuzz_byte(input) | (uint32_t)fuzz_byte(input) << 8) & LARGEST;
        if (kind & 16)
            fuzz_bytes(input, p->plain, fuzz_byte(input));
        p->gap = kind & 32 ? fuzz_byte(input) : 0;
        p->forge = kind & 64 ? fuzz_byte(input) | 1 : 0;
        reference_packet(p->key, p->counter, p->plain, p->length, p->sealed);
        count++;
    }
    return count;
}

/* The packets one after the other, with gaps of any size. */
static void place(tc_aead_job *jobs, size_t count) {
    uint8_t *at = memory;
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        at += p->gap;
        jobs[i] = (tc_aead_job){
            .key = p->key, .counter = p->counter, .in = at, .out = at, .length = p->length};
        memcpy(at, p->plain, p->length);
        at += p->length + TC_TAG_BYTES;
        *at = 0x5a; /* must stay, until the next packet begins here */
    }
}

static void check(tc_aead *aead, size_t count) {
    static tc_aead_job jobs[PACKETS];
    static const uint8_t ZEROS[LARGEST];
    place(jobs, count);
    MUST(tc_aead_seal(aead, jobs, count) == 0);
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        jobs[i].length += TC_TAG_BYTES;
        MUST(memcmp(jobs[i].out, p->sealed, jobs[i].length) == 0);
        if (p->forge)
            jobs[i].out[(p->forge * 131u) % jobs[i].length] ^= p->forge;
    }
    tc_aead_open(aead, jobs, count);
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        MUST(jobs[i].ok == !p->forge);
        MUST(memcmp(jobs[i].out, p->forge ? ZEROS : p->plain, p->length) == 0);
    }
    if (count)
        MUST(jobs[count - 1].out[jobs[count - 1].length] == 0x5a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint32_t FLAGS[CHOICES] = {0, TC_NO_IFMA, TC_NO_AVX512, TC_NO_AVX512 | TC_NO_AVX2};
    fuzz_input input = {data, size};
    size_t count = read_batch(&input);
    for (int i = 0; i < CHOICES; i++) {
        aeads[i] = aeads[i] ? aeads[i] : tc_aead_new(FLAGS[i]);
        MUST(aeads[i]);
        check(aeads[i], count);
    }
    return 0;
}
