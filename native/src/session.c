/* Transport sessions and where their secrets live. */
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- the vault: chunks of locked pages, cut into slots ---- */

enum { VAULT_SLOTS = 1024 };

typedef struct vault_chunk {
    struct vault_chunk *next;
    union vault_slot {
        tc_secret secret;
        union vault_slot *free;
    } * slots;
} vault_chunk;

struct tc_vault {
    vault_chunk *chunks;
    union vault_slot *free;
};

enum { VAULT_BYTES = VAULT_SLOTS * sizeof(union vault_slot) };

tc_vault *tc_vault_new(void) {
    return calloc(1, sizeof(tc_vault));
}

void tc_vault_free(tc_vault *vault) {
    while (vault && vault->chunks) {
        vault_chunk *chunk = vault->chunks;
        vault->chunks = chunk->next;
        tc_wipe((uint8_t *)chunk->slots, VAULT_BYTES);
        munmap(chunk->slots, VAULT_BYTES);
        free(chunk);
    }
    free(vault);
}

static bool vault_grow(tc_vault *vault) {
    vault_chunk *chunk = malloc(sizeof *chunk);
    if (!chunk)
        return false;
    void *memory =
        mmap(NULL, VAULT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        free(chunk);
        return false;
    }
    /* Without privilege the limit on locked memory may be small; keys still work then. */
    (void)mlock(memory, VAULT_BYTES);
    (void)madvise(memory, VAULT_BYTES, MADV_DONTDUMP);
    (void)madvise(memory, VAULT_BYTES, MADV_WIPEONFORK);
    *chunk = (vault_chunk){.next = vault->chunks, .slots = memory};
    vault->chunks = chunk;
    for (size_t i = 0; i < VAULT_SLOTS; i++) {
        chunk->slots[i].free = vault->free;
        vault->free = &chunk->slots[i];
    }
    return true;
}

tc_secret *tc_vault_take(tc_vault *vault) {
    if (!vault->free && !vault_grow(vault))
        return NULL;
    union vault_slot *slot = vault->free;
    vault->free = slot->free;
    return &slot->secret;
}

void tc_vault_give(tc_vault *vault, tc_secret *secret) {
    tc_wipe((uint8_t *)secret, sizeof *secret);
    union vault_slot *slot = (union vault_slot *)secret;
    slot->free = vault->free;
    vault->free = slot;
}

/* ---- sessions ---- */

tc_session *tc_session_new(tc_vault *vault, const tc_keypair *keys, uint64_t now) {
    tc_session *session = aligned_alloc(64, sizeof *session);
    tc_secret *secret = session ? tc_vault_take(vault) : NULL;
    if (!secret) {
        free(session);
        return NULL;
    }
    memset(session, 0, sizeof *session);
    session->local_index = keys->local_index;
    session->remote_index = keys->remote_index;
    session->initiator = keys->initiator;
    session->created = now;
    session->keys = secret;
    memcpy(secret->send, keys->send_key, sizeof secret->send);
    memcpy(secret->receive, keys->receive_key, sizeof secret->receive);
    pthread_mutex_init(&session->replay_lock, NULL);
    return session;
}

void tc_session_free(tc_vault *vault, tc_session *session) {
    if (!session)
        return;
    tc_vault_give(vault, session->keys);
    pthread_mutex_destroy(&session->replay_lock);
    free(session);
}

bool tc_session_expired(const tc_session *session, uint64_t now) {
    return now - session->created >= TC_REJECT_AFTER_TIME;
}

bool tc_session_take(tc_session *session, uint32_t count, uint64_t *first) {
    /* Compared before it is moved: adding first and looking afterwards would wrap in the end. */
    uint64_t next = atomic_load_explicit(&session->sent, memory_order_relaxed);
    do {
        if (next >= TC_REJECT_AFTER_MESSAGES || count > TC_REJECT_AFTER_MESSAGES - next)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&session->sent, &next, next + count,
                                                    memory_order_relaxed, memory_order_relaxed));
    *first = next;
    return true;
}

/* ---- index table: our own random numbers, so the low bits are a good hash ---- */

enum { INDEX_BUCKETS_MIN = 64 };

int tc_index_init(tc_index_table *table) {
    *table = (tc_index_table){.mask = INDEX_BUCKETS_MIN - 1};
    table->buckets = calloc(INDEX_BUCKETS_MIN, sizeof(tc_session *));
    return table->buckets ? 0 : -ENOMEM;
}

void tc_index_free(tc_index_table *table) {
    free(table->buckets);
}

tc_session *tc_index_find(const tc_index_table *table, uint32_t index) {
    tc_session *session = table->buckets[index & table->mask];
    while (session && session->local_index != index)
        session = session->chain;
    return session;
}

static void index_grow(tc_index_table *table) {
    uint32_t mask = table->mask * 2 + 1;
    tc_session **buckets = calloc((size_t)mask + 1, sizeof *buckets);
    if (!buckets)
        return; /* longer chains are slower, not wrong */
    for (uint32_t i = 0; i <= table->mask; i++) {
        for (tc_session *session = table->buckets[i], *next; session; session = next) {
            next = session->chain;
            session->chain = buckets[session->local_index & mask];
            buckets[session->local_index & mask] = session;
        }
    }
    free(table->buckets);
    table->buckets = buckets;
    table->mask = mask;
}

int tc_index_add(tc_index_table *table, tc_session *session) {
    if (tc_index_find(table, session->local_index))
        return -EEXIST;
    if (table->count > table->mask)
        index_grow(table);
    tc_session **bucket = &table->buckets[session->local_index & table->mask];
    session->chain = *bucket;
    *bucket = session;
    table->count++;
    return 0;
}

void tc_index_remove(tc_index_table *table, tc_session *session) {
    tc_session **link = &table->buckets[session->local_index & table->mask];
    while (*link != session)
        link = &(*link)->chain;
    *link = session->chain;
    table->count--;
}
