/* The packet AEAD: vector code over batches where the processor has it, libcrypto for the rest.
 *
 * libcrypto has one cipher context each way a thread, keyed and given its nonce anew for every
 * packet. A key costs ChaCha20 nothing but a copy, so contexts need not belong to sessions. A
 * packet or two by themselves go through it in any case, unless they are short (lone.h): the vector
 * code works on many at once, or wastes its width. */
#include "aead.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "aead_kernel.h"
#include "lone.h"

struct tc_aead {
    const tc_aead_kernel *kernel; /* or NULL */
    EVP_CIPHER *cipher;
    EVP_CIPHER_CTX *seal;
    EVP_CIPHER_CTX *open;
};

static const tc_aead_kernel *choose(uint32_t flags) {
    const tc_aead_kernel *kernel = NULL;
    if (!(flags & (TC_NO_AVX512 | TC_NO_IFMA)))
        kernel = tc_kernel_avx512ifma();
    if (!kernel && !(flags & TC_NO_AVX512))
        kernel = tc_kernel_avx512();
    if (!kernel && !(flags & TC_NO_AVX2))
        kernel = tc_kernel_avx2();
    return kernel;
}

const char *tc_crypto_name(uint32_t flags) {
    const tc_aead_kernel *kernel = choose(flags);
    return kernel ? kernel->name : "libcrypto";
}

tc_aead *tc_aead_new(uint32_t flags) {
    tc_aead *aead = calloc(1, sizeof *aead);
    if (!aead)
        return NULL;
    aead->kernel = choose(flags);
    aead->cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    aead->seal = EVP_CIPHER_CTX_new();
    aead->open = EVP_CIPHER_CTX_new();
    if (aead->cipher && aead->seal && aead->open &&
        EVP_EncryptInit_ex2(aead->seal, aead->cipher, NULL, NULL, NULL) == 1 &&
        EVP_DecryptInit_ex2(aead->open, aead->cipher, NULL, NULL, NULL) == 1)
        return aead;
    tc_aead_free(aead);
    return NULL;
}

void tc_aead_free(tc_aead *aead) {
    if (!aead)
        return;
    EVP_CIPHER_CTX_free(aead->seal); /* wipes the key that it held last */
    EVP_CIPHER_CTX_free(aead->open);
    EVP_CIPHER_free(aead->cipher);
    free(aead);
}

/* Readies a context for a job. `keyed` is the key that it holds, NULL for none or unknown: giving
 * it the same one again would cost a tenth of a packet. Keys are told apart by their place, which
 * means something within one batch only. */
static bool begin(EVP_CIPHER_CTX *ctx, const uint8_t **keyed, const tc_aead_job *job) {
    uint8_t nonce[12] = {0};
    tc_put_le64(nonce + 4, job->counter);
    const uint8_t *key = job->key == *keyed ? NULL : job->key;
    *keyed = NULL;
    if (EVP_CipherInit_ex2(ctx, NULL, key, nonce, -1, NULL) != 1)
        return false;
    *keyed = job->key;
    return true;
}

static bool seal_one(EVP_CIPHER_CTX *ctx, const uint8_t **keyed, const tc_aead_job *job) {
    int length = 0;
    return begin(ctx, keyed, job) &&
           EVP_EncryptUpdate(ctx, job->out, &length, job->in, (int)job->length) == 1 &&
           EVP_EncryptFinal_ex(ctx, job->out + length, &length) == 1 &&
           EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TC_TAG_BYTES, job->out + job->length) ==
               1;
}

static bool open_one(EVP_CIPHER_CTX *ctx, const uint8_t **keyed, const tc_aead_job *job) {
    uint8_t tag[TC_TAG_BYTES];
    int length = 0;
    if (job->length < TC_TAG_BYTES)
        return false;
    uint32_t body = job->length - TC_TAG_BYTES;
    memcpy(tag, job->in + body, sizeof tag);
    if (begin(ctx, keyed, job) &&
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, sizeof tag, tag) == 1 &&
        EVP_DecryptUpdate(ctx, job->out, &length, job->in, (int)body) == 1 &&
        EVP_DecryptFinal_ex(ctx, job->out + length, &length) == 1)
        return true;
    memset(job->out, 0, body); /* unauthenticated plaintext goes nowhere */
    return false;
}

/* How many of the batch are for the vector code: the rest is too few for it. */
static size_t batched(const tc_aead *aead, size_t count) {
    if (!aead->kernel)
        return 0;
    size_t last = count % TC_BATCH_GROUP;
    return last < aead->kernel->least ? count - last : count;
}

/* Whether a packet by itself is for lone.h, where code of our own is wanted at all. */
static bool is_short(const tc_aead *aead, const tc_aead_job *job, uint32_t overhead) {
    return TC_LONE_USABLE && aead->kernel && job->length <= TC_LONE_BYTES + overhead;
}

int tc_aead_seal(tc_aead *aead, tc_aead_job *jobs, size_t count) {
    const uint8_t *keyed = NULL;
    size_t i = batched(aead, count);
    if (i)
        tc_batch_seal(aead->kernel, jobs, i);
    for (; i < count; i++) {
        if (is_short(aead, &jobs[i], 0))
            tc_lone_seal(&jobs[i]);
        else if (!seal_one(aead->seal, &keyed, &jobs[i]))
            return -EIO;
    }
    return 0;
}

size_t tc_aead_open(tc_aead *aead, tc_aead_job *jobs, size_t count) {
    const uint8_t *keyed = NULL;
    size_t i = batched(aead, count), right = 0;
    if (i)
        right = tc_batch_open(aead->kernel, jobs, i);
    for (; i < count; i++) {
        if (is_short(aead, &jobs[i], TC_TAG_BYTES))
            jobs[i].ok = tc_lone_open(&jobs[i]);
        else
            jobs[i].ok = open_one(aead->open, &keyed, &jobs[i]);
        right += jobs[i].ok;
    }
    return right;
}

/* The single operations of tunnel_core.h make a context each time: for handshakes and tests. */
int tc_seal(const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length,
            uint8_t *out) {
    if (length > INT32_MAX)
        return -EINVAL;
    tc_aead *aead = tc_aead_new(0);
    tc_aead_job job = {.key = key, .counter = counter, .in = in, .out = out, .length = length};
    int result = aead ? tc_aead_seal(aead, &job, 1) : -ENOMEM;
    tc_aead_free(aead);
    return result;
}

int tc_open(const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length,
            uint8_t *out) {
    if (length > INT32_MAX)
        return -EINVAL;
    tc_aead *aead = tc_aead_new(0);
    tc_aead_job job = {.key = key, .counter = counter, .in = in, .out = out, .length = length};
    int result = !aead ? -ENOMEM : tc_aead_open(aead, &job, 1) == 1 ? 0 : -EBADMSG;
    tc_aead_free(aead);
    return result;
}
