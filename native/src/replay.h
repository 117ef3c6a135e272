/* Sliding window against replay (RFC 6479 in shape): a bitmap of 8192 counters of which 8128 are
 * usable. Asked after decryption only. A distance of 8128 is taken, 8129 is not. */
#ifndef TC_REPLAY_H
#define TC_REPLAY_H

#include "core.h"

#define TC_REPLAY_BITS 8192
#define TC_REPLAY_WINDOW (TC_REPLAY_BITS - 64)
#define TC_REJECT_AFTER_MESSAGES (UINT64_MAX - (UINT64_C(1) << 13))

typedef struct {
    uint64_t newest; /* one more than the largest counter taken, 0 at first */
    uint64_t bitmap[TC_REPLAY_BITS / 64];
} tc_replay;

/* Whether the counter is new; takes it when it is. */
bool tc_replay_accept(tc_replay *replay, uint64_t counter);

#endif
