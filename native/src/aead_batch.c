/* The AEAD over a batch by a vector kernel. ChaCha20 works on a flat list of blocks, whichever
 * packets they are of; Poly1305 on as many packets as the kernel is wide. Work is done in groups of
 * sixteen packets, which stay in the first-level cache between the two.
 *
 * When opening, tags come first: a packet with a wrong one is never decrypted. */
#include <openssl/crypto.h>

#include "aead_kernel.h"

/* Runs that wait until the kernel's lanes are full. */
typedef struct {
    const tc_aead_kernel *kernel;
    tc_chacha_run runs[TC_KERNEL_LANES];
    size_t count;
    uint32_t lanes;
} queue;

static void flush(queue *q) {
    if (q->count)
        q->kernel->crypt(q->runs, q->count);
    q->count = q->lanes = 0;
}

static void crypt_body(queue *q, const tc_aead_job *job, uint32_t bytes) {
    const uint8_t *in = job->in;
    uint8_t *out = job->out;
    uint32_t block = 1; /* block 0 is for Poly1305 */
    while (bytes) {
        uint32_t room = (q->kernel->lanes - q->lanes) * TC_BLOCK_BYTES;
        uint32_t part = bytes < room ? bytes : room;
        uint32_t blocks = (part + TC_BLOCK_BYTES - 1) / TC_BLOCK_BYTES;
        q->runs[q->count++] = (tc_chacha_run){
            .key = job->key,
            .counters = {block, 0, (uint32_t)job->counter, (uint32_t)(job->counter >> 32)},
            .in = in,
            .out = out,
            .bytes = part,
        };
        q->lanes += blocks;
        block += blocks;
        in += part;
        out += part;
        bytes -= part;
        if (q->lanes == q->kernel->lanes)
            flush(q);
    }
}

/* What a group keeps: secret but for the tags. */
typedef struct {
    uint8_t keys[TC_BATCH_GROUP][TC_KEY_BYTES];
    uint8_t tags[TC_BATCH_GROUP][TC_TAG_BYTES];
    tc_poly_message messages[TC_BATCH_GROUP];
} group;

static void make_keys(const queue *q, group *g, const tc_aead_job *jobs, size_t count) {
    for (size_t i = 0; i < count; i += q->kernel->lanes) {
        size_t left = count - i, lanes = q->kernel->lanes;
        q->kernel->make_keys(jobs + i, left < lanes ? left : lanes, g->keys + i);
    }
}

static void make_tags(const queue *q, group *g, size_t count) {
    for (size_t i = 0; i < count; i += q->kernel->width) {
        size_t left = count - i, width = q->kernel->width;
        q->kernel->authenticate(g->messages + i, left < width ? left : width, g->tags + i);
    }
}

static void say(group *g, size_t i, const uint8_t *data, uint32_t length) {
    g->messages[i] =
        (tc_poly_message){.key = g->keys[i], .data = data, .length = length, .end = {0, length}};
}

static void seal_group(queue *q, group *g, tc_aead_job *jobs, size_t count) {
    make_keys(q, g, jobs, count);
    for (size_t i = 0; i < count; i++) {
        crypt_body(q, &jobs[i], jobs[i].length);
        say(g, i, jobs[i].out, jobs[i].length);
    }
    flush(q);
    make_tags(q, g, count);
    for (size_t i = 0; i < count; i++)
        memcpy(jobs[i].out + jobs[i].length, g->tags[i], TC_TAG_BYTES);
}

/* Packets too short for a tag are authenticated as empty ones, so that the rest need not move. */
static size_t open_group(queue *q, group *g, tc_aead_job *jobs, size_t count) {
    size_t right = 0;
    make_keys(q, g, jobs, count);
    for (size_t i = 0; i < count; i++)
        say(g, i, jobs[i].in, jobs[i].length < TC_TAG_BYTES ? 0 : jobs[i].length - TC_TAG_BYTES);
    make_tags(q, g, count);
    for (size_t i = 0; i < count; i++) {
        uint32_t body = g->messages[i].length;
        jobs[i].ok = jobs[i].length >= TC_TAG_BYTES &&
                     CRYPTO_memcmp(g->tags[i], jobs[i].in + body, TC_TAG_BYTES) == 0;
        right += jobs[i].ok;
        if (jobs[i].ok)
            crypt_body(q, &jobs[i], body);
        else
            memset(jobs[i].out, 0, body);
    }
    flush(q);
    return right;
}

/* The kernels leave keys and key streams in stack frames that are no longer in use. They lie where
 * this one does. */
static __attribute__((noinline)) void wipe_stack(void) {
    uint8_t dead[8192];
    tc_wipe(dead, sizeof dead);
}

void tc_batch_seal(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count) {
    queue q = {.kernel = kernel};
    group g;
    for (size_t i = 0; i < count; i += TC_BATCH_GROUP)
        seal_group(&q, &g, jobs + i, count - i < TC_BATCH_GROUP ? count - i : TC_BATCH_GROUP);
    tc_wipe((uint8_t *)&g, sizeof g);
    wipe_stack();
}

size_t tc_batch_open(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count) {
    queue q = {.kernel = kernel};
    group g;
    size_t right = 0;
    for (size_t i = 0; i < count; i += TC_BATCH_GROUP)
        right +=
            open_group(&q, &g, jobs + i, count - i < TC_BATCH_GROUP ? count - i : TC_BATCH_GROUP);
    tc_wipe((uint8_t *)&g, sizeof g);
    wipe_stack();
    return right;
}
