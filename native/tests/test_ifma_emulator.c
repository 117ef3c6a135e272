/* Every form of the two instructions against the arithmetic that defines them: by the emulator
 * where the processor lacks them, else by the processor, which then judges the test. */
#include "check.h"
#include "ifma_emulator.h"

#if defined(__x86_64__)

#include <stdalign.h>

#include "ifma_model.h"

#define VECTOR __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512ifma")))

enum { LANES = 8, ROUNDS = 300, WORDS = 256 };

static struct { alignas(64) uint64_t sum[LANES], a[LANES], b[LANES]; } in;
static alignas(64) uint64_t out[LANES];
static uint64_t memory[WORDS], mask;
static const uint64_t CONSTANTS[LANES] = {1, 2, 3, 5, 7, 11, 13, (UINT64_C(1) << 52) - 1};

/* Puts the operands into registers of these numbers, runs the instructions and takes the result.
 * rdi has the place of `memory`, rsi is 3. */
#define FORM(name, d, a, b, text)                                                                  \
    VECTOR static void name(void) {                                                                \
        __asm__ volatile(                                                                          \
            "vmovdqa64 (%[in]), %%zmm" #d "\n\t"                                                   \
            "vmovdqa64 64(%[in]), %%zmm" #a "\n\t"                                                 \
            "vmovdqa64 128(%[in]), %%zmm" #b "\n\t"                                                \
            "kmovq %[mask], %%k3\n\t" text "\n\t"                                                  \
            "vmovdqa64 %%zmm" #d ", (%[out])"                                                      \
            :                                                                                      \
            : [in] "r"(&in), [out] "r"(out), [mask] "r"(mask), [constants] "m"(CONSTANTS),         \
              "D"(memory), "S"((uint64_t)3)                                                        \
            : "memory", "k3", "r12", "r13", "xmm" #d, "xmm" #a, "xmm" #b);                         \
    }

FORM(low_registers, 1, 2, 3, "vpmadd52luq %%zmm3, %%zmm2, %%zmm1")
FORM(high_registers, 31, 18, 29, "vpmadd52huq %%zmm29, %%zmm18, %%zmm31")
FORM(mixed, 8, 16, 9, "vpmadd52luq %%zmm9, %%zmm16, %%zmm8")
FORM(ymm, 6, 20, 13, "vpmadd52huq %%ymm13, %%ymm20, %%ymm6")
FORM(xmm, 22, 14, 27, "vpmadd52luq %%xmm27, %%xmm14, %%xmm22")
FORM(merging, 1, 2, 3, "vpmadd52luq %%zmm3, %%zmm2, %%zmm1%{%%k3%}")
FORM(zeroing, 17, 2, 30, "vpmadd52huq %%zmm30, %%zmm2, %%zmm17%{%%k3%}%{z%}")
FORM(ymm_merging, 1, 2, 3, "vpmadd52huq %%ymm3, %%ymm2, %%ymm1%{%%k3%}")
FORM(at_base, 1, 2, 3, "vpmadd52luq (%%rdi), %%zmm2, %%zmm1")
FORM(disp8, 19, 2, 3, "vpmadd52huq 320(%%rdi), %%zmm2, %%zmm19")
FORM(disp32, 1, 2, 3, "vpmadd52luq 1032(%%rdi), %%zmm2, %%zmm1")
FORM(indexed, 1, 24, 3, "vpmadd52huq 128(%%rdi,%%rsi,8), %%zmm24, %%zmm1")
FORM(no_base, 1, 2, 3,
     "leaq -48(%%rdi), %%r13\n\tshr $3, %%r13\n\t"
     "vpmadd52luq 64(,%%r13,8), %%zmm2, %%zmm1")
FORM(negative, 1, 2, 3, "leaq 640(%%rdi), %%r12\n\tvpmadd52luq -64(%%r12), %%zmm2, %%zmm1")
FORM(base_r13, 1, 2, 3, "leaq 64(%%rdi), %%r13\n\tvpmadd52huq (%%r13), %%zmm2, %%zmm1")
FORM(index_r12, 1, 2, 3, "movq %%rsi, %%r12\n\tvpmadd52luq 64(%%rdi,%%r12,4), %%zmm2, %%zmm1")
FORM(broadcast, 1, 2, 3, "vpmadd52luq 40(%%rdi)%{1to8%}, %%zmm2, %%zmm1")
FORM(ymm_broadcast, 1, 2, 3, "vpmadd52huq 1600(%%rdi)%{1to4%}, %%ymm2, %%ymm1")
FORM(ymm_disp8, 1, 25, 3, "vpmadd52luq 96(%%rdi), %%ymm25, %%ymm1")
FORM(xmm_disp8, 1, 2, 3, "vpmadd52huq 48(%%rdi), %%xmm2, %%xmm1")
FORM(masked_memory, 1, 2, 3, "vpmadd52luq 64(%%rdi), %%zmm2, %%zmm1%{%%k3%}")
FORM(relative, 1, 2, 3, "vpmadd52luq %[constants], %%zmm2, %%zmm1")
FORM(before_others, 1, 2, 3,
     "vpmadd52luq %%zmm3, %%zmm2, %%zmm1\n\tvpmadd52luq %%ymm3, %%ymm3, %%ymm2\n\t"
     "vpxorq %%zmm2, %%zmm2, %%zmm2")
FORM(same_register, 1, 2, 3, "vmovdqa64 %%zmm1, %%zmm1\n\tvpmadd52huq %%zmm1, %%zmm1, %%zmm1")

enum operand { REGISTER, MEMORY, EVERY_LANE, CONSTANT, ITSELF };
enum masking { ALL, MERGE, ZERO };

static const struct {
    void (*run)(void);
    bool upper;
    uint32_t lanes;
    enum masking masking;
    enum operand operand;
    uint32_t at; /* byte of `memory` */
} FORMS[] = {
    {low_registers, false, 8, ALL, REGISTER, 0},
    {high_registers, true, 8, ALL, REGISTER, 0},
    {mixed, false, 8, ALL, REGISTER, 0},
    {ymm, true, 4, ALL, REGISTER, 0},
    {xmm, false, 2, ALL, REGISTER, 0},
    {merging, false, 8, MERGE, REGISTER, 0},
    {zeroing, true, 8, ZERO, REGISTER, 0},
    {ymm_merging, true, 4, MERGE, REGISTER, 0},
    {at_base, false, 8, ALL, MEMORY, 0},
    {disp8, true, 8, ALL, MEMORY, 320},
    {disp32, false, 8, ALL, MEMORY, 1032},
    {indexed, true, 8, ALL, MEMORY, 152},
    {no_base, false, 8, ALL, MEMORY, 16},
    {negative, false, 8, ALL, MEMORY, 576},
    {base_r13, true, 8, ALL, MEMORY, 64},
    {index_r12, false, 8, ALL, MEMORY, 76},
    {broadcast, false, 8, ALL, EVERY_LANE, 40},
    {ymm_broadcast, true, 4, ALL, EVERY_LANE, 1600},
    {ymm_disp8, false, 4, ALL, MEMORY, 96},
    {xmm_disp8, true, 2, ALL, MEMORY, 48},
    {masked_memory, false, 8, MERGE, MEMORY, 64},
    {relative, false, 8, ALL, CONSTANT, 0},
    {before_others, false, 8, ALL, REGISTER, 0},
    {same_register, true, 8, ALL, ITSELF, 0},
};

/* Ones and zeros in long runs are where carries go wrong. */
static uint64_t some_word(void) {
    switch (check_below(4)) {
    case 0:
        return UINT64_MAX >> check_below(64);
    case 1:
        return UINT64_MAX << check_below(64);
    default:
        return check_random();
    }
}

static uint64_t operand_of(size_t row, uint32_t lane) {
    uint64_t value;
    switch (FORMS[row].operand) {
    case MEMORY:
        memcpy(&value, (uint8_t *)memory + FORMS[row].at + 8 * lane, 8);
        return value;
    case EVERY_LANE:
        return memory[FORMS[row].at / 8];
    case CONSTANT:
        return CONSTANTS[lane];
    case ITSELF:
        return in.sum[lane];
    default:
        return in.b[lane];
    }
}

static uint64_t expected(size_t row, uint32_t lane) {
    if (lane >= FORMS[row].lanes)
        return 0;
    if (FORMS[row].masking != ALL && !(mask >> lane & 1))
        return FORMS[row].masking == ZERO ? 0 : in.sum[lane];
    uint64_t a = FORMS[row].operand == ITSELF ? in.sum[lane] : in.a[lane];
    return ifma_lane(FORMS[row].upper, in.sum[lane], a, operand_of(row, lane));
}

static void test_forms(void) {
    for (int round = 0; round < ROUNDS; round++)
        for (size_t row = 0; row < ROWS(FORMS); row++) {
            for (int i = 0; i < LANES; i++)
                in.sum[i] = some_word(), in.a[i] = some_word(), in.b[i] = some_word();
            for (int i = 0; i < WORDS; i++)
                memory[i] = some_word();
            mask = check_random();
            FORMS[row].run();
            for (uint32_t i = 0; i < LANES; i++)
                CHECK(row, out[i] == expected(row, i), "lane %u of round %d", i, round);
        }
}

/* The model that long runs use. */
__attribute__((target("avx512f"))) static void test_model(void) {
    for (long round = 0; round < 100000; round++) {
        for (int i = 0; i < LANES; i++)
            in.sum[i] = some_word(), in.a[i] = some_word(), in.b[i] = some_word();
        __m512i sum = _mm512_load_si512(in.sum), a = _mm512_load_si512(in.a),
                b = _mm512_load_si512(in.b);
        for (int upper = 0; upper < 2; upper++) {
            _mm512_store_si512(out,
                               upper ? ifma_model_upper(sum, a, b) : ifma_model_lower(sum, a, b));
            for (int i = 0; i < LANES; i++)
                CHECK(round, out[i] == ifma_lane(upper, in.sum[i], in.a[i], in.b[i]), "lane %d", i);
        }
    }
}

/* A register that has its initial value, zeros, is not in the signal's frame until it is written.
 */
VECTOR static void test_initial_state(void) {
    for (int i = 0; i < LANES; i++)
        in.a[i] = some_word() | 1, in.b[i] = some_word() | 1;
    __asm__ volatile("vmovdqa64 64(%[in]), %%zmm16\n\t"
                     "vmovdqa64 128(%[in]), %%zmm17\n\t"
                     "vzeroall\n\t"
                     "vpmadd52luq %%zmm16, %%zmm17, %%zmm2\n\t"
                     "vmovdqa64 %%zmm2, (%[out])"
                     :
                     : [in] "r"(&in), [out] "r"(out)
                     : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
                       "xmm16", "xmm17");
    for (int i = 0; i < LANES; i++)
        CHECK(i, out[i] == ifma_lane(false, 0, in.a[i], in.b[i]), "an initial register");
}

int main(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512vl"))
        return printf("this processor has no AVX-512\n"), 0;
    bool native = __builtin_cpu_supports("avx512ifma");
    printf("%s\n", native ? "the processor's own" : "emulated");
    test_forms();
    test_initial_state();
    test_model();
    CHECK(-1, native || ifma_emulated() > (uint64_t)ROUNDS * ROWS(FORMS), "nothing was emulated");
    return CHECK_DONE();
}

#else

int main(void) {
    return 0;
}

#endif
