/* Two path-compressed binary tries (one a family) over keys of 128 bits, an IPv4 address filling
 * the first 32. A node stands for one prefix: either one that a peer holds, or the place where two
 * such prefixes part. So there are fewer than twice as many nodes as prefixes, and a walk visits
 * only places where stored prefixes differ. Nodes are 32 bytes in one array and refer to each
 * other by index: half the size of pointers, and 100,000 prefixes stay within a level-3 cache.
 *
 * What costs time in a large table is a cache miss a bit. So a node with many nodes in the eight
 * bits below it gets a fan: for each value of these bits, what the walk would have found among
 * them and where it goes on. A fan is a cache of the trie, never the truth: a change refills the
 * slots that it touches. It takes twice the memory of the nodes that entitle a node to it, which
 * keeps the table at some 250 bytes a prefix at most. Fixed strides all the way down would be a
 * little faster still, but cost kilobytes for a prefix that stands alone.
 *
 * The prefixes of one peer are linked to each other, so that removing one of 10,000 peers costs
 * what it holds and not a walk of the table. */
#include "allowedips.h"

#include <errno.h>
#include <stdlib.h>

#include "prefix.h"

enum {
    NIL = 0,      /* index 0 is no node, and no fan */
    CROWDED = 32, /* nodes within these bits that make a fan worth its memory */
};

typedef struct {
    uint64_t high, low; /* the prefix, host bits zero */
    uint32_t child[2];
    uint32_t peer; /* TC_NO_PEER where the trie only branches */
    uint32_t bits : 8;
    uint32_t fan : 24;
} node;

/* Kept apart from the nodes, since a look-up has no use for it. */
typedef struct {
    uint32_t next, previous; /* of the same peer */
    uint32_t family;
} link;

/* The walk below a node for one value of its next eight bits. */
typedef struct {
    uint32_t node; /* where it goes on: the first node past these bits, or NIL */
    uint32_t peer; /* of the longest prefix that it passed, or TC_NO_PEER */
} slot;

typedef union {
    slot slots[1 << TC_STRIDE];
    uint32_t spare; /* the next freed fan */
} fan;

struct tc_allowedips {
    node *nodes;
    link *links;
    uint32_t used, capacity, spare; /* spare: a chain of freed nodes through child[0] */
    fan *fans;
    uint32_t fans_used, fans_capacity, fans_spare;
    uint32_t *held; /* by peer: its first node */
    uint32_t peers;
    uint32_t root[2]; /* IPv4, IPv6 */
    size_t count;
};

static tc_key key_of(const node *n) {
    return (tc_key){n->high, n->low};
}

static bool holds(const node *n, tc_key k) {
    return tc_key_common(k, key_of(n)) >= n->bits;
}

/* ---- memory ---- */

tc_allowedips *tc_allowedips_new(void) {
    tc_allowedips *table = calloc(1, sizeof *table);
    if (table)
        table->used = table->fans_used = 1;
    return table;
}

void tc_allowedips_free(tc_allowedips *table) {
    if (!table)
        return;
    free(table->nodes);
    free(table->links);
    free(table->fans);
    free(table->held);
    free(table);
}

size_t tc_allowedips_count(const tc_allowedips *table) {
    return table->count;
}

static bool grow(void **memory, size_t count, size_t size) {
    void *grown = realloc(*memory, count * size);
    if (grown)
        *memory = grown;
    return grown != NULL;
}

/* Makes sure of two more nodes and of the peer's list, so that adding cannot fail half-way. */
static int reserve(tc_allowedips *table, uint32_t peer) {
    if (table->capacity < table->used + 2) {
        uint32_t capacity = table->capacity ? table->capacity * 2 : 64;
        if (!grow((void **)&table->nodes, capacity, sizeof *table->nodes) ||
            !grow((void **)&table->links, capacity, sizeof *table->links))
            return -ENOMEM;
        table->capacity = capacity;
    }
    if (peer >= table->peers) {
        uint32_t peers = peer + 1 + peer / 2;
        if (!grow((void **)&table->held, peers, sizeof *table->held))
            return -ENOMEM;
        memset(table->held + table->peers, 0, (peers - table->peers) * sizeof *table->held);
        table->peers = peers;
    }
    return 0;
}

static uint32_t make_node(tc_allowedips *table, tc_key k, uint32_t bits, int family) {
    uint32_t index = table->spare;
    if (index != NIL)
        table->spare = table->nodes[index].child[0];
    else
        index = table->used++;
    k = tc_key_masked(k, bits);
    table->nodes[index] = (node){.high = k.high, .low = k.low, .peer = TC_NO_PEER, .bits = bits};
    table->links[index] = (link){.family = (uint32_t)family};
    return index;
}

static void drop_fan(tc_allowedips *table, node *n) {
    table->fans[n->fan].spare = table->fans_spare;
    table->fans_spare = n->fan;
    n->fan = NIL;
}

static void drop_node(tc_allowedips *table, uint32_t index) {
    node *n = &table->nodes[index];
    if (n->fan != NIL)
        drop_fan(table, n);
    n->child[0] = table->spare;
    table->spare = index;
}

/* NIL when there is no memory: the walk below the node is then slower, not wrong. */
static uint32_t make_fan(tc_allowedips *table) {
    uint32_t index = table->fans_spare;
    if (index != NIL) {
        table->fans_spare = table->fans[index].spare;
        return index;
    }
    if (table->fans_used >= table->fans_capacity) {
        uint32_t capacity = table->fans_capacity ? table->fans_capacity * 2 : 2;
        if (!grow((void **)&table->fans, capacity, sizeof *table->fans))
            return NIL;
        table->fans_capacity = capacity;
    }
    return table->fans_used++;
}

/* ---- who holds a node ---- */

static void give(tc_allowedips *table, uint32_t index, uint32_t peer) {
    link *l = &table->links[index];
    table->nodes[index].peer = peer;
    l->previous = NIL;
    l->next = table->held[peer];
    if (l->next != NIL)
        table->links[l->next].previous = index;
    table->held[peer] = index;
    table->count++;
}

static void take(tc_allowedips *table, uint32_t index) {
    link *l = &table->links[index];
    if (l->previous != NIL)
        table->links[l->previous].next = l->next;
    else
        table->held[table->nodes[index].peer] = l->next;
    if (l->next != NIL)
        table->links[l->next].previous = l->previous;
    table->nodes[index].peer = TC_NO_PEER;
    table->count--;
}

/* ---- fans ---- */

static void fill_slot(const tc_allowedips *table, const node *n, unsigned value) {
    uint32_t end = n->bits + TC_STRIDE;
    tc_key k = tc_key_with_stride(key_of(n), n->bits, value);
    uint32_t index = n->child[value >> (TC_STRIDE - 1)], peer = TC_NO_PEER;
    while (index != NIL) {
        const node *below = &table->nodes[index];
        uint32_t shared = tc_key_common(k, key_of(below));
        if (shared < end && shared < below->bits)
            index = NIL; /* parts from the value within these bits */
        else if (below->bits > end)
            break;
        else if (below->peer != TC_NO_PEER)
            peer = below->peer;
        if (index == NIL || below->bits == end)
            break;
        index = below->child[tc_key_bit(k, below->bits)];
    }
    table->fans[n->fan].slots[value] = (slot){.node = index, .peer = peer};
}

/* How many nodes stand within the bits below top, counted as far as CROWDED. */
static uint32_t crowd(const tc_allowedips *table, const node *top, uint32_t index, uint32_t seen) {
    const node *n = &table->nodes[index];
    if (index == NIL || n->bits > top->bits + TC_STRIDE || seen >= CROWDED)
        return seen;
    seen = crowd(table, top, n->child[0], seen + 1);
    return crowd(table, top, n->child[1], seen);
}

/* Brings the fans above a prefix up to date after it, or nodes on the way to it, changed; makes
 * and drops fans by how crowded their bits are now. */
static void refresh(tc_allowedips *table, int family, tc_key k, uint32_t bits) {
    uint32_t width = family == 4 ? 32 : 128;
    uint32_t index = table->root[family == 6], covered = 0;
    for (node *n; index != NIL; index = n->child[tc_key_bit(k, n->bits)]) {
        n = &table->nodes[index];
        uint32_t end = n->bits + TC_STRIDE;
        if (n->bits >= bits || !holds(n, k))
            break;
        if (end > width || (n->fan == NIL && n->bits < covered))
            continue;
        uint32_t nodes = crowd(table, n, n->child[0], crowd(table, n, n->child[1], 0));
        unsigned first = 0, last = (1u << TC_STRIDE) - 1;
        if (n->fan != NIL && nodes < CROWDED / 2) {
            drop_fan(table, n);
        } else if (n->fan != NIL) {
            first = tc_key_stride(k, n->bits);
            last = bits < end ? first | ((1u << (end - bits)) - 1) : first;
        } else if (nodes >= CROWDED) {
            n->fan = make_fan(table);
        }
        if (n->fan == NIL)
            continue;
        for (unsigned value = first; value <= last; value++)
            fill_slot(table, n, value);
        covered = end;
    }
}

/* ---- changes ---- */

static int check(int family, uint32_t prefix) {
    return (family == 4 && prefix <= 32) || (family == 6 && prefix <= 128) ? 0 : -EINVAL;
}

/* The node of exactly this prefix, made where it is missing. */
static uint32_t insert(tc_allowedips *table, int family, tc_key k, uint32_t prefix) {
    uint32_t *place = &table->root[family == 6];
    while (*place != NIL) {
        node *n = &table->nodes[*place];
        uint32_t shared = tc_key_common(k, key_of(n));
        if (shared > prefix)
            shared = prefix;
        if (shared < n->bits) { /* the new prefix parts here, or holds this node */
            uint32_t below = *place;
            uint32_t made = make_node(table, k, prefix, family), top = made;
            if (shared < prefix) {
                top = make_node(table, k, shared, family);
                table->nodes[top].child[tc_key_bit(k, shared)] = made;
            }
            table->nodes[top].child[tc_key_bit(key_of(n), shared)] = below;
            *place = top;
            return made;
        }
        if (n->bits == prefix)
            return *place;
        place = &n->child[tc_key_bit(k, n->bits)];
    }
    return *place = make_node(table, k, prefix, family);
}

int tc_allowedips_add(tc_allowedips *table, int family, const uint8_t *address, uint32_t prefix,
                      uint32_t peer) {
    int error = check(family, prefix);
    if (!error)
        error = reserve(table, peer);
    if (error)
        return error;
    tc_key k = tc_key_masked(tc_key_make(family, address), prefix);
    uint32_t index = insert(table, family, k, prefix);
    if (table->nodes[index].peer != TC_NO_PEER)
        take(table, index); /* it moves */
    give(table, index, peer);
    refresh(table, family, k, prefix);
    return 0;
}

/* What takes the place of a node: itself while it is needed, else its only child or nothing. */
static uint32_t pruned(tc_allowedips *table, uint32_t index) {
    node *n = &table->nodes[index];
    if (n->peer != TC_NO_PEER || (n->child[0] != NIL && n->child[1] != NIL))
        return index;
    uint32_t heir = n->child[0] != NIL ? n->child[0] : n->child[1];
    drop_node(table, index);
    return heir;
}

/* Removes exactly this prefix if it is peer's. */
static bool remove_held(tc_allowedips *table, int family, tc_key k, uint32_t prefix,
                        uint32_t peer) {
    uint32_t *above = NULL, *place = &table->root[family == 6];
    while (*place != NIL) {
        node *n = &table->nodes[*place];
        if (n->bits > prefix || !holds(n, k))
            return false;
        if (n->bits == prefix) {
            if (n->peer != peer)
                return false;
            take(table, *place);
            *place = pruned(table, *place);
            if (above)
                *above = pruned(table, *above);
            refresh(table, family, k, prefix);
            return true;
        }
        above = place;
        place = &n->child[tc_key_bit(k, n->bits)];
    }
    return false;
}

int tc_allowedips_remove(tc_allowedips *table, int family, const uint8_t *address, uint32_t prefix,
                         uint32_t peer) {
    int error = check(family, prefix);
    if (error)
        return error;
    tc_key k = tc_key_masked(tc_key_make(family, address), prefix);
    return peer != TC_NO_PEER && remove_held(table, family, k, prefix, peer) ? 0 : -ENOENT;
}

void tc_allowedips_remove_peer(tc_allowedips *table, uint32_t peer) {
    while (peer < table->peers && table->held[peer] != NIL) {
        uint32_t index = table->held[peer];
        const node *n = &table->nodes[index];
        remove_held(table, (int)table->links[index].family, key_of(n), n->bits, peer);
    }
}

/* ---- look-up ---- */

static inline uint32_t find(const tc_allowedips *table, uint32_t index, tc_key k, uint32_t width) {
    uint32_t best = TC_NO_PEER;
    while (index != NIL) {
        const node *n = &table->nodes[index];
        if (!holds(n, k))
            break;
        if (n->peer != TC_NO_PEER)
            best = n->peer;
        if (n->bits == width)
            break;
        if (n->fan == NIL) {
            index = n->child[tc_key_bit(k, n->bits)];
            continue;
        }
        const slot *s = &table->fans[n->fan].slots[tc_key_stride(k, n->bits)];
        if (s->peer != TC_NO_PEER)
            best = s->peer;
        index = s->node;
    }
    return best;
}

uint32_t tc_allowedips_find4(const tc_allowedips *table, const uint8_t address[4]) {
    return find(table, table->root[0], tc_key_make(4, address), 32);
}

uint32_t tc_allowedips_find6(const tc_allowedips *table, const uint8_t address[16]) {
    return find(table, table->root[1], tc_key_make(6, address), 128);
}
