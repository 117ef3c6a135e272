/* The programs, in the kernel's own instructions (linux/bpf.h), and the memory that they write to:
 * one array map of one value, a cache line for each of them. */
#include "waker.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE = 64, BYTES = TC_WAKERS * LINE };

#define INSTRUCTION(operation, to, from, offset, value)                                            \
    (struct bpf_insn) {                                                                            \
        .code = (operation), .dst_reg = (to), .src_reg = (from), .off = (offset), .imm = (value)   \
    }

static int bpf(enum bpf_cmd command, union bpf_attr *attributes) {
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

/* Notes the processor's number plus one, so that 0 is none. Written only if it is another: the
 * line is the reader's too. */
static int load(int map, tc_waker_kind kind) {
    static const char licence[] = "MIT";
    const struct bpf_insn code[] = {
        INSTRUCTION(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_smp_processor_id),
        INSTRUCTION(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_0, 0, 0, 1),
        INSTRUCTION(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_VALUE, 0, map),
        INSTRUCTION(0, 0, 0, 0, (int)kind * LINE),
        INSTRUCTION(BPF_LDX | BPF_W | BPF_MEM, BPF_REG_2, BPF_REG_1, 0, 0),
        INSTRUCTION(BPF_JMP | BPF_JEQ | BPF_X, BPF_REG_2, BPF_REG_0, 1, 0),
        INSTRUCTION(BPF_STX | BPF_W | BPF_MEM, BPF_REG_1, BPF_REG_0, 0, 0),
        INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, INT32_MAX), /* all of it passes */
        INSTRUCTION(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attributes.insn_cnt = sizeof code / sizeof *code;
    attributes.insns = (uintptr_t)code;
    attributes.license = (uintptr_t)licence;
    memcpy(attributes.prog_name, "tunneld", sizeof "tunneld");
    return bpf(BPF_PROG_LOAD, &attributes);
}

static int make_map(void) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = sizeof(uint32_t);
    attributes.value_size = BYTES;
    attributes.max_entries = 1;
    attributes.map_flags = BPF_F_MMAPABLE;
    return bpf(BPF_MAP_CREATE, &attributes);
}

void tc_waker_init(tc_waker *waker) {
    *waker = (tc_waker){.programs = {-1, -1}};
    int map = make_map();
    if (map < 0)
        return;
    void *notes = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, map, 0);
    if (notes != MAP_FAILED) {
        waker->notes = notes;
        for (int kind = 0; kind < TC_WAKERS; kind++)
            waker->programs[kind] = load(map, kind);
    }
    close(map); /* the programs and the mapping keep it */
}

void tc_waker_free(tc_waker *waker) {
    if (!waker->notes)
        return;
    munmap(waker->notes, BYTES);
    for (int kind = 0; kind < TC_WAKERS; kind++)
        if (waker->programs[kind] >= 0)
            close(waker->programs[kind]);
    *waker = (tc_waker){.programs = {-1, -1}};
}

void tc_waker_watch_link(const tc_waker *waker, int fd) {
    if (waker->notes && waker->programs[TC_FROM_LINK] >= 0)
        (void)ioctl(fd, TUNSETFILTEREBPF, &waker->programs[TC_FROM_LINK]);
}

void tc_waker_watch_outer(const tc_waker *waker, int fd, bool on) {
    if (fd < 0 || !waker->notes || waker->programs[TC_FROM_OUTER] < 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, on ? SO_ATTACH_BPF : SO_DETACH_BPF,
                     &waker->programs[TC_FROM_OUTER], sizeof(int));
}

int tc_waker_last(const tc_waker *waker, tc_waker_kind kind) {
    if (!waker->notes)
        return -1;
    return *(const volatile int32_t *)(waker->notes + kind * LINE) - 1;
}
