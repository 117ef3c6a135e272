/* Sessions: one pair of transport keys with its send counter and replay window, found by the index
 * that the far end writes into its packets. Created and destroyed only under the engine's
 * exclusive lock, so that a pointer found under the shared lock stays good for that batch. */
#ifndef TC_SESSION_H
#define TC_SESSION_H

#include <pthread.h>

#include "core.h"
#include "replay.h"

#define TC_SECOND UINT64_C(1000000000)
#define TC_REKEY_AFTER_TIME (120 * TC_SECOND)
#define TC_REJECT_AFTER_TIME (180 * TC_SECOND)
#define TC_REKEY_LAST_MINUTE (165 * TC_SECOND)
#define TC_REKEY_AFTER_MESSAGES (UINT64_C(1) << 60)

/* Keys live in pages that are locked in memory and kept out of core dumps, where the system
 * permits; slots are wiped when they are given back. */
typedef struct {
    uint8_t send[32];
    uint8_t receive[32];
} tc_secret;

typedef struct tc_vault tc_vault;

tc_vault *tc_vault_new(void);
void tc_vault_free(tc_vault *vault); /* wipes all */
tc_secret *tc_vault_take(tc_vault *vault);
void tc_vault_give(tc_vault *vault, tc_secret *secret);

typedef struct tc_session {
    uint32_t local_index;
    uint32_t remote_index;
    bool initiator;
    uint64_t created;
    struct tc_peer *peer;
    tc_secret *keys;
    struct tc_session *chain;           /* in the index table */
    _Alignas(64) _Atomic uint64_t sent; /* the next counter to send with */
    _Alignas(64) pthread_mutex_t replay_lock;
    tc_replay replay;
} tc_session;

/* NULL without memory. */
tc_session *tc_session_new(tc_vault *vault, const tc_keypair *keys, uint64_t now);
void tc_session_free(tc_vault *vault, tc_session *session);
bool tc_session_expired(const tc_session *session, uint64_t now);
/* Takes `count` successive counters, or none when fewer are left. Never wraps, never repeats. */
bool tc_session_take(tc_session *session, uint32_t count, uint64_t *first);

/* Receiver index -> session. */
typedef struct {
    tc_session **buckets;
    uint32_t mask;
    uint32_t count;
} tc_index_table;

int tc_index_init(tc_index_table *table);
void tc_index_free(tc_index_table *table);
tc_session *tc_index_find(const tc_index_table *table, uint32_t index);
int tc_index_add(tc_index_table *table, tc_session *session); /* 0, -EEXIST */
void tc_index_remove(tc_index_table *table, tc_session *session);

#endif
