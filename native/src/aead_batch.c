/* The AEAD over a batch by a vector kernel. ChaCha20 works on a flat list of blocks, whichever
 * packets they are of. Tags are made of sixteen packets at once, or by the scalar unit while others
 * are enciphered. When sealing, those are packets that are enciphered already; when opening,
 * packets yet to be deciphered, since one whose tag is wrong never is. */
#include <openssl/crypto.h>

#include "aead_kernel.h"

#if defined(__x86_64__)

enum { PART = 64 }; /* packets of a batch that are described at a time */

typedef struct {
    const tc_aead_kernel *kernel;
    tc_aead_job *jobs;
    size_t count;
    bool sealing;
    tc_poly_pair pair;
    /* Runs that wait until the kernel's lanes are full. */
    tc_chacha_run runs[TC_KERNEL_LANES];
    size_t waiting;
    uint32_t lanes;
    size_t described; /* packets that have a key and a message */
    size_t queued;    /* packets of which no block is left to queue */
    size_t tagged;    /* packets that have a tag, where the pair does not make it */
    tc_poly_message messages[PART];
    uint8_t keys[PART][TC_KEY_BYTES]; /* secret, as are the pair and the tags that are due */
    uint8_t tags[PART][TC_TAG_BYTES];
} part;

static void flush(part *p) {
    if (p->waiting)
        p->kernel->crypt(p->runs, p->waiting, &p->pair);
    p->waiting = p->lanes = 0;
    if (p->sealing && !p->kernel->authenticate)
        p->pair.limit = p->queued;
}

/* Queues the next packet's blocks. It counts before the last of them go, since the flush that takes
 * them makes it one that is enciphered. */
static void crypt_next(part *p) {
    const tc_aead_job *job = &p->jobs[p->queued];
    uint32_t bytes = p->messages[p->queued].length;
    const uint8_t *in = job->in;
    uint8_t *out = job->out;
    uint32_t block = 1; /* block 0 is for Poly1305 */
    p->queued += !bytes;
    while (bytes) {
        uint32_t room = (p->kernel->lanes - p->lanes) * TC_BLOCK_BYTES;
        uint32_t now = bytes < room ? bytes : room;
        uint32_t blocks = (now + TC_BLOCK_BYTES - 1) / TC_BLOCK_BYTES;
        p->runs[p->waiting++] = (tc_chacha_run){
            .key = job->key,
            .counters = {block, 0, (uint32_t)job->counter, (uint32_t)(job->counter >> 32)},
            .in = in,
            .out = out,
            .bytes = now,
        };
        p->lanes += blocks;
        block += blocks;
        in += now;
        out += now;
        bytes -= now;
        p->queued += !bytes;
        if (p->lanes == p->kernel->lanes)
            flush(p);
    }
}

/* Packets too short for a tag are authenticated as empty ones, so that the rest need not move. */
static void describe(part *p, size_t i) {
    const tc_aead_job *job = &p->jobs[i];
    uint32_t length = job->length;
    if (!p->sealing)
        length = length < TC_TAG_BYTES ? 0 : length - TC_TAG_BYTES;
    p->messages[i] = (tc_poly_message){
        .key = p->keys[i],
        .data = p->sealing ? job->out : job->in,
        .length = length,
        .end = {0, length},
        .tag = p->sealing ? job->out + length : p->tags[i],
    };
}

/* Of all packets that have been described. */
static void make_tags(part *p) {
    while (p->tagged < p->described) {
        size_t left = p->described - p->tagged, width = p->kernel->width;
        size_t now = left < width ? left : width;
        p->kernel->authenticate(p->messages + p->tagged, now);
        p->tagged += now;
    }
}

static void describe_group(part *p) {
    size_t end =
        p->described + TC_BATCH_GROUP < p->count ? p->described + TC_BATCH_GROUP : p->count;
    for (size_t i = p->described; i < end; i += p->kernel->lanes) {
        size_t left = end - i, lanes = p->kernel->lanes;
        p->kernel->make_keys(p->jobs + i, left < lanes ? left : lanes, p->keys + i, &p->pair);
    }
    for (; p->described < end; p->described++)
        describe(p, p->described);
    if (p->sealing)
        return;
    if (p->kernel->authenticate)
        make_tags(p);
    else
        p->pair.limit = end;
}

static void seal_part(part *p) {
    while (p->queued < p->count) {
        if (p->queued == p->described)
            describe_group(p);
        crypt_next(p);
        if (p->kernel->authenticate && p->queued == p->described) {
            flush(p);
            make_tags(p);
        }
    }
    flush(p);
    while (tc_poly_pair_advance(&p->pair)) {
    }
}

static size_t authenticated(const part *p) {
    return p->kernel->authenticate ? p->tagged : tc_poly_pair_finished(&p->pair);
}

static size_t open_part(part *p) {
    size_t right = 0;
    while (p->queued < p->count) {
        tc_aead_job *job = &p->jobs[p->queued];
        if (p->queued == authenticated(p)) {
            if (p->described < p->count)
                describe_group(p);
            else
                tc_poly_pair_advance(&p->pair);
            continue;
        }
        uint32_t body = p->messages[p->queued].length;
        job->ok = job->length >= TC_TAG_BYTES &&
                  CRYPTO_memcmp(p->tags[p->queued], job->in + body, TC_TAG_BYTES) == 0;
        right += job->ok;
        if (job->ok) {
            crypt_next(p);
        } else {
            memset(job->out, 0, body);
            p->queued++;
        }
    }
    flush(p);
    return right;
}

/* The kernels leave keys and key streams in stack frames that are no longer in use. They lie where
 * this one does, when it is called from where they were. */
static __attribute__((noinline)) void wipe_stack(void) {
    uint8_t dead[8192];
    tc_wipe(dead, sizeof dead);
}

static size_t run(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count, bool sealing) {
    part p;
    size_t right = 0;
    for (size_t i = 0; i < count; i += p.count) {
        p.kernel = kernel;
        p.jobs = jobs + i;
        p.count = count - i < PART ? count - i : PART;
        p.sealing = sealing;
        p.waiting = p.lanes = 0;
        p.described = p.queued = p.tagged = 0;
        tc_poly_pair_init(&p.pair, p.messages);
        if (sealing)
            seal_part(&p);
        else
            right += open_part(&p);
    }
    size_t used = count < PART ? count : PART;
    tc_wipe((uint8_t *)&p.pair, sizeof p.pair);
    tc_wipe(p.keys[0], (uint32_t)(used * TC_KEY_BYTES));
    tc_wipe(p.tags[0], (uint32_t)(used * TC_TAG_BYTES));
    wipe_stack();
    return right;
}

void tc_batch_seal(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count) {
    run(kernel, jobs, count, true);
}

size_t tc_batch_open(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count) {
    return run(kernel, jobs, count, false);
}

#endif
