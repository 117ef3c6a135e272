/* See ifma_emulator.h. Decodes EVEX.66.0F38.W1 B4 /r and B5 /r (Intel's manual, volume 2, section
 * 2.7) with every form of operand, mask and vector length. Registers lie where the XSAVE area of
 * the signal's frame has them (volume 1, section 13.4); a component that XSTATE_BV does not name
 * has its initial value, zeros, whatever the memory has. */
#include "ifma_emulator.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "aead_kernel.h"

/* Components of the XSAVE area that hold vector registers and masks. */
enum { SSE = 1, YMM = 2, OPMASK = 5, ZMM_HIGH = 6, HIGH_16 = 7, COMPONENTS = 8 };
enum { XMM_OFFSET = 160, BV_OFFSET = 512, LANES = 8, RSP = 4, RBP = 5 };

static struct { size_t offset, bytes; } components[COMPONENTS];
static struct sigaction before;
static atomic_uint_fast64_t emulated;

typedef struct {
    uint8_t *area; /* XSAVE's standard form */
    greg_t *gregs;
} frame;

typedef struct {
    bool upper, zeroing, in_memory, broadcast;
    unsigned sum, a, b, mask;
    unsigned lanes;
    const uint8_t *place; /* where in_memory */
    const uint8_t *next;  /* instruction */
} instruction;

static uint64_t *present(const frame *f) {
    return (uint64_t *)(void *)(f->area + BV_OFFSET);
}

/* Part of a component for writing: one in its initial state gets that in memory first. */
static uint8_t *part(const frame *f, unsigned component, size_t at) {
    uint8_t *start = f->area + components[component].offset;
    if (!(*present(f) >> component & 1)) {
        memset(start, 0, components[component].bytes);
        *present(f) |= UINT64_C(1) << component;
    }
    return start + at;
}

/* The three parts of register 0 to 15, or the one of 16 to 31. */
static void move_register(const frame *f, unsigned index, uint64_t value[LANES], bool write) {
    struct {
        uint8_t *at;
        size_t bytes;
    } parts[3] = {{NULL, 0}};
    if (index >= 16) {
        parts[0].at = part(f, HIGH_16, (index - 16) * 64), parts[0].bytes = 64;
    } else {
        parts[0].at = part(f, SSE, index * 16), parts[0].bytes = 16;
        parts[1].at = part(f, YMM, index * 16), parts[1].bytes = 16;
        parts[2].at = part(f, ZMM_HIGH, index * 32), parts[2].bytes = 32;
    }
    uint8_t *bytes = (uint8_t *)value;
    for (int i = 0; i < 3 && parts[i].bytes; bytes += parts[i++].bytes) {
        if (write)
            memcpy(parts[i].at, bytes, parts[i].bytes);
        else
            memcpy(bytes, parts[i].at, parts[i].bytes);
    }
}

static uint64_t general(const frame *f, unsigned index) {
    static const int PLACES[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                   REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)f->gregs[PLACES[index]];
}

static int32_t displacement(const uint8_t *at) {
    int32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The operand in memory: ModRM, SIB and displacement, of which one of 8 bits counts operands. */
static void decode_address(const frame *f, const uint8_t *at, unsigned x, unsigned b,
                           instruction *i) {
    unsigned mod = *at >> 6, base = *at & 7;
    uint64_t address = 0;
    bool relative = mod == 0 && base == RBP;
    at++;
    if (base == RSP) {
        unsigned index = (*at >> 3 & 7) | x << 3;
        base = *at & 7;
        if (index != RSP)
            address = general(f, index) << (*at >> 6);
        at++;
    }
    if (mod == 0 && base == RBP) { /* none, or, without SIB, the next instruction */
        address += (uint64_t)displacement(at);
        at += 4;
        address += relative ? (uint64_t)(uintptr_t)at : 0;
    } else {
        address += general(f, base | b << 3);
        if (mod == 1)
            address += (uint64_t)((int8_t)*at++ * (i->broadcast ? 8 : 8 * (int)i->lanes));
        if (mod == 2) {
            address += (uint64_t)displacement(at);
            at += 4;
        }
    }
    i->place = (const uint8_t *)(uintptr_t)address;
    i->next = at;
}

/* False for anything else than the two instructions. */
static bool decode(const frame *f, const uint8_t *at, instruction *i) {
    if (at[0] != 0x62 || (at[1] & 0x0f) != 2 || (at[2] & 0x87) != 0x85 ||
        (at[4] != 0xb4 && at[4] != 0xb5))
        return false;
    unsigned r = ~at[1] >> 7 & 1, x = ~at[1] >> 6 & 1, b = ~at[1] >> 5 & 1;
    unsigned length = at[3] >> 5 & 3;
    *i = (instruction){
        .upper = at[4] == 0xb5,
        .zeroing = at[3] >> 7,
        .broadcast = at[3] >> 4 & 1,
        .mask = at[3] & 7,
        .lanes = 2u << length,
        .in_memory = at[5] >> 6 != 3,
        .sum = (at[5] >> 3 & 7) | r << 3 | (~at[1] >> 4 & 1) << 4,
        .a = (~at[2] >> 3 & 15) | (~at[3] >> 3 & 1) << 4,
        .b = (at[5] & 7) | b << 3 | x << 4,
        .next = at + 6,
    };
    if (length == 3 || (i->zeroing && !i->mask) || (i->broadcast && !i->in_memory))
        return false;
    if (i->in_memory)
        decode_address(f, at + 5, x, b, i);
    return true;
}

static void perform(const frame *f, const instruction *i) {
    uint64_t sum[LANES], a[LANES], b[LANES] = {0}, mask = UINT64_MAX;
    move_register(f, i->sum, sum, false);
    move_register(f, i->a, a, false);
    if (i->mask)
        memcpy(&mask, part(f, OPMASK, i->mask * 8), sizeof mask);
    if (!i->in_memory)
        move_register(f, i->b, b, false);
    for (unsigned lane = 0; lane < LANES; lane++) {
        bool wanted = lane < i->lanes && (mask >> lane & 1);
        if (wanted && i->in_memory) /* what is masked out is not read */
            memcpy(&b[lane], i->place + (i->broadcast ? 0 : 8 * lane), 8);
        if (wanted)
            sum[lane] = ifma_lane(i->upper, sum[lane], a[lane], b[lane]);
        else if (lane >= i->lanes || i->zeroing)
            sum[lane] = 0;
    }
    move_register(f, i->sum, sum, true);
}

/* Goes on while such instructions follow each other: a signal costs a hundred times as much. */
static void on_illegal(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ucontext_t *c = context;
    frame f = {(uint8_t *)c->uc_mcontext.fpregs, c->uc_mcontext.gregs};
    const uint8_t *at = (const uint8_t *)(uintptr_t)f.gregs[REG_RIP];
    instruction i;
    uint_fast64_t done = 0;
    for (; decode(&f, at, &i); at = i.next, done++)
        perform(&f, &i);
    f.gregs[REG_RIP] = (greg_t)(uintptr_t)at;
    atomic_fetch_add_explicit(&emulated, done, memory_order_relaxed);
    if (!done)
        sigaction(SIGILL, &before, NULL); /* what is not ours ends as it would have */
}

static __attribute__((constructor)) void install(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f") || __builtin_cpu_supports("avx512ifma"))
        return;
    for (unsigned i = 0; i < COMPONENTS; i++) {
        unsigned bytes, offset, c, d;
        __cpuid_count(13, i, bytes, offset, c, d);
        components[i].offset = i == SSE ? XMM_OFFSET : offset;
        components[i].bytes = i == SSE ? 256 : bytes;
    }
    struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &action, &before);
}

bool tc_has_ifma(void) {
    return true;
}

uint64_t ifma_emulated(void) {
    return atomic_load(&emulated);
}

#endif
