/* Which vector kernels there are, and what a processor needs for each. */
#include "aead_kernel.h"

#if defined(__x86_64__)

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("bmi2");
}

const tc_aead_kernel *tc_kernel_avx512ifma(void) {
    static const tc_aead_kernel KERNEL = {
        .name = "avx512ifma",
        .lanes = 16,
        .width = 8,
        .least = 2,
        .make_keys = tc_keys_avx512,
        .crypt = tc_chacha_avx512,
        .authenticate = tc_poly_ifma,
    };
    return has_avx512() && tc_has_ifma() ? &KERNEL : NULL;
}

const tc_aead_kernel *tc_kernel_avx512(void) {
    static const tc_aead_kernel KERNEL = {
        .name = "avx512",
        .lanes = 16,
        .width = 8,
        .least = 2,
        .make_keys = tc_keys_avx512,
        .crypt = tc_chacha_avx512,
        .authenticate = tc_poly_avx512,
    };
    return has_avx512() ? &KERNEL : NULL;
}

const tc_aead_kernel *tc_kernel_avx2(void) {
    static const tc_aead_kernel KERNEL = {
        .name = "avx2",
        .lanes = 8,
        .least = 3,
        .make_keys = tc_keys_avx2,
        .crypt = tc_chacha_avx2,
    };
    bool usable = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    return usable ? &KERNEL : NULL;
}

#else

const tc_aead_kernel *tc_kernel_avx512ifma(void) {
    return NULL;
}

const tc_aead_kernel *tc_kernel_avx512(void) {
    return NULL;
}

const tc_aead_kernel *tc_kernel_avx2(void) {
    return NULL;
}

/* Never called, as there is no kernel to call them with. */
void tc_batch_seal(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count) {
    (void)kernel, (void)jobs, (void)count;
}

size_t tc_batch_open(const tc_aead_kernel *kernel, tc_aead_job *jobs, size_t count) {
    (void)kernel, (void)jobs, (void)count;
    return 0;
}

#endif
