/* The packet AEAD against the reference, in batches of every shape, and forgeries. Published
 * vectors are in tests/test_primitives.py.
 * usage: test_aead [PACKETS [SEED [KERNEL]]]     random packets of each kernel: 10,000, or 1,000 of
 * the one whose instructions are emulated on most processors */
#include "aead.h"
#include "check.h"
#include "reference.h"

enum { BATCH = 70, LARGEST = 2100 };

typedef struct {
    uint8_t keys[32];
    const uint8_t *key; /* its own, or that of a packet before it: sessions come in runs */
    uint8_t plain[LARGEST];
    uint8_t sealed[LARGEST + TC_TAG_BYTES];
    uint8_t work[LARGEST + TC_TAG_BYTES];
    uint32_t length;
    uint64_t counter;
} packet;

static packet packets[BATCH];
static tc_aead_job jobs[BATCH];

/* Lengths around blocks of 16 and 64 bytes come up more often than chance would have it. */
static uint32_t some_length(void) {
    switch (check_below(4)) {
    case 0:
        return check_below(LARGEST + 1);
    case 1:
        return check_below(100);
    case 2:
        return check_below(LARGEST / 64) * 64 + check_below(3);
    default:
        return check_below(2) ? 1420 : 1280 + check_below(2) * 16;
    }
}

static void make_batch(size_t count, bool one_key, bool single_blocks) {
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        p->length = single_blocks ? check_below(64) + 1 : some_length();
        p->counter = check_below(3) ? check_random() : check_below(3);
        check_fill(p->plain, p->length);
        check_fill(p->keys, 32);
        p->key = p->keys;
        if (i && (one_key || check_below(2)))
            p->key = packets[i - 1].key;
        else if (i && !check_below(4))
            p->key = packets[check_below((uint32_t)i)].key;
        reference_packet(p->key, p->counter, p->plain, p->length, p->sealed);
    }
}

static void seal_batch(tc_aead *aead, size_t count, bool in_place, long round) {
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        memset(p->work, 0x55, sizeof p->work);
        if (in_place)
            memcpy(p->work, p->plain, p->length);
        jobs[i] = (tc_aead_job){.key = p->key,
                                .counter = p->counter,
                                .in = in_place ? p->work : p->plain,
                                .out = p->work,
                                .length = p->length};
    }
    CHECK(round, tc_aead_seal(aead, jobs, count) == 0, "seal");
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        size_t size = p->length + TC_TAG_BYTES;
        CHECK(round, memcmp(p->work, p->sealed, size) == 0, "packet %zu of %u bytes", i, p->length);
        CHECK(round, size == sizeof p->work || p->work[size] == 0x55, "wrote past packet %zu", i);
    }
}

static bool zeros(const uint8_t *data, size_t length) {
    uint8_t any = 0;
    for (size_t i = 0; i < length; i++)
        any |= data[i];
    return !any;
}

/* Opens the batch with packets for which forged[i] is set changed in one bit. */
static void open_batch(tc_aead *aead, size_t count, bool in_place, uint32_t forge, long round) {
    static bool forged[BATCH];
    size_t right = 0;
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        size_t size = p->length + TC_TAG_BYTES;
        forged[i] = check_below(100) < forge;
        right += !forged[i];
        if (forged[i])
            p->sealed[check_below((uint32_t)size)] ^= (uint8_t)(1u << check_below(8));
        memset(p->work, 0x55, sizeof p->work);
        if (in_place)
            memcpy(p->work, p->sealed, size);
        jobs[i] = (tc_aead_job){.key = p->key,
                                .counter = p->counter,
                                .in = in_place ? p->work : p->sealed,
                                .out = p->work,
                                .length = (uint32_t)size,
                                .ok = forged[i]};
    }
    CHECK(round, tc_aead_open(aead, jobs, count) == right, "how many were right");
    for (size_t i = 0; i < count; i++) {
        packet *p = &packets[i];
        CHECK(round, jobs[i].ok == !forged[i], "packet %zu of %u bytes", i, p->length);
        if (forged[i])
            CHECK(round, zeros(p->work, p->length), "plaintext of a forgery, packet %zu", i);
        else
            CHECK(round, memcmp(p->work, p->plain, p->length) == 0, "plaintext, packet %zu", i);
        CHECK(round, in_place || p->work[p->length] == 0x55, "wrote past packet %zu", i);
    }
}

static void test_batches(tc_aead *aead, long wanted) {
    long round = 0;
    for (long done = 0; done < wanted; round++) {
        size_t count = check_below(4) ? check_below(BATCH) + 1 : 1;
        done += (long)count;
        make_batch(count, check_below(2), !check_below(4));
        seal_batch(aead, count, check_below(2), round);
        open_batch(aead, count, check_below(2), check_below(3) * 30, round);
    }
}

static void test_every_length(tc_aead *aead) {
    for (uint32_t length = 0; length <= LARGEST; length += BATCH) {
        make_batch(BATCH, true, false);
        for (uint32_t i = 0; i < BATCH; i++) {
            packet *p = &packets[i];
            p->length = length + i < LARGEST ? length + i : LARGEST;
            check_fill(p->plain, p->length);
            reference_packet(p->key, p->counter, p->plain, p->length, p->sealed);
        }
        seal_batch(aead, BATCH, false, length);
        open_batch(aead, BATCH, true, 0, length);
    }
}

static void test_every_bit(tc_aead *aead) {
    packet *p = &packets[0];
    make_batch(1, true, false);
    p->length = 37;
    reference_packet(p->key, p->counter, p->plain, p->length, p->sealed);
    for (size_t bit = 0; bit < (37 + TC_TAG_BYTES) * 8; bit++) {
        p->sealed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        tc_aead_job job = {.key = p->key,
                           .counter = p->counter,
                           .in = p->sealed,
                           .out = p->work,
                           .length = 37 + TC_TAG_BYTES};
        CHECK(bit, tc_aead_open(aead, &job, 1) == 0 && !job.ok, "a flipped bit is taken");
        p->sealed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void test_too_short(tc_aead *aead) {
    for (uint32_t length = 0; length < TC_TAG_BYTES; length++) {
        uint8_t key[32] = {0}, *in = check_copy(key, length);
        tc_aead_job job = {.key = key, .in = in, .out = in, .length = length, .ok = true};
        CHECK(length, tc_aead_open(aead, &job, 1) == 0 && !job.ok, "no room for a tag");
        free(in);
    }
    /* One that cannot be tried leaves nothing behind for the next of its session. */
    packet *p = &packets[0];
    make_batch(1, true, false);
    uint32_t size = p->length + TC_TAG_BYTES;
    tc_aead_job two[2] = {
        {.key = p->key, .in = p->sealed, .out = p->work, .length = TC_TAG_BYTES - 1},
        {.key = p->key, .counter = p->counter, .in = p->sealed, .out = p->work, .length = size}};
    CHECK(-1, tc_aead_open(aead, two, 2) == 1 && !two[0].ok && two[1].ok, "behind a short one");
    CHECK(-1, tc_aead_open(aead, NULL, 0) == 0, "an empty batch");
    CHECK(-1, tc_aead_seal(aead, NULL, 0) == 0, "an empty batch");
}

/* Everything ends at the end of its memory, where a sanitizer or a guard page is. */
static void test_bounds(tc_aead *aead) {
    for (uint32_t length = 0; length < 300; length++) {
        for (size_t count = 1; count < 5; count++) {
            make_batch(count, false, false);
            for (size_t i = 0; i < count; i++) {
                packet *p = &packets[i];
                p->length = length + (uint32_t)i * 17;
                reference_packet(p->key, p->counter, p->plain, p->length, p->sealed);
                uint8_t *work = check_copy(p->plain, p->length + TC_TAG_BYTES);
                jobs[i] = (tc_aead_job){.key = check_copy(p->key, 32),
                                        .counter = p->counter,
                                        .in = work,
                                        .out = work,
                                        .length = p->length};
            }
            CHECK(length, tc_aead_seal(aead, jobs, count) == 0, "seal");
            for (size_t i = 0; i < count; i++) {
                jobs[i].length += TC_TAG_BYTES;
                CHECK(length, memcmp(jobs[i].out, packets[i].sealed, jobs[i].length) == 0,
                      "packet %zu of %zu", i, count);
            }
            CHECK(length, tc_aead_open(aead, jobs, count) == count, "open");
            for (size_t i = 0; i < count; i++) {
                CHECK(length, memcmp(jobs[i].out, packets[i].plain, packets[i].length) == 0,
                      "packet %zu of %zu", i, count);
                free(jobs[i].out);
                free((void *)(uintptr_t)jobs[i].key);
            }
        }
    }
}

static void test_single(void) {
    packet *p = &packets[0];
    make_batch(1, true, false);
    CHECK(1, tc_seal(p->key, p->counter, p->plain, p->length, p->work) == 0, "seal");
    CHECK(2, memcmp(p->work, p->sealed, p->length + TC_TAG_BYTES) == 0, "sealed");
    uint32_t size = p->length + TC_TAG_BYTES;
    CHECK(3, tc_open(p->key, p->counter, p->work, size, p->work) == 0, "open");
    CHECK(4, memcmp(p->work, p->plain, p->length) == 0, "opened");
    CHECK(5, tc_open(p->key, p->counter ^ 1, p->sealed, size, p->work) < 0, "another counter");
    CHECK(6, tc_open(p->key, p->counter, p->sealed, 15, p->work) < 0, "too short");
}

static void test_all(uint32_t flags, long wanted) {
    tc_aead *aead = tc_aead_new(flags);
    if (!aead)
        abort();
    test_batches(aead, wanted);
    test_every_length(aead);
    test_every_bit(aead);
    test_too_short(aead);
    test_bounds(aead);
    tc_aead_free(aead);
}

int main(int argc, char **argv) {
    check_seed(argc > 2 ? strtoull(argv[2], NULL, 10) : 0);
    static const struct {
        uint32_t flags;
        const char *name; /* on a processor that has them all */
        long packets;
    } CHOICES[] = {{0, "avx512ifma", 1000},
                   {TC_NO_IFMA, "avx512", 10000},
                   {TC_NO_AVX512, "avx2", 10000},
                   {TC_NO_AVX512 | TC_NO_AVX2, "libcrypto", 10000}};
    bool any = false;
    for (size_t i = 0; i < ROWS(CHOICES); i++) {
        const char *name = tc_crypto_name(CHOICES[i].flags);
        for (size_t j = 0; j < i; j++)
            CHECK(i, strcmp(name, CHOICES[j].name) != 0, "%s, which the flags rule out", name);
        if (strcmp(name, CHOICES[i].name) != 0 || (argc > 3 && strcmp(name, argv[3]) != 0))
            continue;
        printf("%s\n", name);
        test_all(CHOICES[i].flags, argc > 1 ? atol(argv[1]) : CHOICES[i].packets);
        any = true;
    }
    CHECK(-1, any, "this processor has no such kernel");
    test_single();
    tc_aead_free(NULL);
    return CHECK_DONE();
}
