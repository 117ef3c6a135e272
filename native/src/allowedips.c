/* Two path-compressed binary tries (one a family) over keys of 128 bits, an IPv4 address filling
 * the first 32. A node stands for one prefix: either one that a peer holds, or the place where two
 * such prefixes part. So there are fewer than twice as many nodes as prefixes, and a walk visits
 * only places where stored prefixes differ. Nodes are 32 bytes in one array and refer to each
 * other by index: half the size of pointers, and 100,000 prefixes stay within a level-3 cache. */
#include "allowedips.h"

#include <errno.h>
#include <stdlib.h>

#define NIL 0 /* index 0 is no node */

typedef struct {
    uint64_t high, low; /* the prefix, host bits zero */
    uint32_t child[2];
    uint32_t peer; /* TC_NO_PEER where the trie only branches */
    uint32_t bits;
} node;

typedef struct {
    uint64_t high, low;
} key;

struct tc_allowedips {
    node *nodes;
    uint32_t used, capacity, spare; /* spare: a chain of freed nodes through child[0] */
    uint32_t root[2];               /* IPv4, IPv6 */
    size_t count;
};

static uint64_t load64(const uint8_t *p) {
    return (uint64_t)tc_get_be32(p) << 32 | tc_get_be32(p + 4);
}

static key make_key(int family, const uint8_t *address) {
    if (family == 4)
        return (key){.high = (uint64_t)tc_get_be32(address) << 32};
    return (key){.high = load64(address), .low = load64(address + 8)};
}

static key masked(key k, uint32_t bits) {
    if (bits == 0)
        return (key){0, 0};
    if (bits <= 64)
        return (key){k.high & ~UINT64_C(0) << (64 - bits), 0};
    return (key){k.high, k.low & ~UINT64_C(0) << (128 - bits)};
}

static unsigned bit_at(key k, uint32_t place) {
    return place < 64 ? k.high >> (63 - place) & 1 : k.low >> (127 - place) & 1;
}

static uint32_t common_bits(key a, key b) {
    if (a.high != b.high)
        return (uint32_t)__builtin_clzll(a.high ^ b.high);
    return a.low != b.low ? 64 + (uint32_t)__builtin_clzll(a.low ^ b.low) : 128;
}

static key key_of(const node *n) {
    return (key){n->high, n->low};
}

tc_allowedips *tc_allowedips_new(void) {
    tc_allowedips *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->capacity = 64;
    table->used = 1;
    table->nodes = calloc(table->capacity, sizeof *table->nodes);
    if (!table->nodes) {
        free(table);
        return NULL;
    }
    return table;
}

void tc_allowedips_free(tc_allowedips *table) {
    if (table)
        free(table->nodes);
    free(table);
}

size_t tc_allowedips_count(const tc_allowedips *table) {
    return table->count;
}

/* Makes sure that two more nodes can be made, so that adding cannot fail half-way. */
static int reserve(tc_allowedips *table) {
    if (table->capacity - table->used >= 2)
        return 0;
    uint32_t capacity = table->capacity * 2;
    node *nodes = realloc(table->nodes, capacity * sizeof *nodes);
    if (!nodes)
        return -ENOMEM;
    table->nodes = nodes;
    table->capacity = capacity;
    return 0;
}

static uint32_t make_node(tc_allowedips *table, key k, uint32_t bits, uint32_t peer) {
    uint32_t index = table->spare;
    if (index != NIL)
        table->spare = table->nodes[index].child[0];
    else
        index = table->used++;
    k = masked(k, bits);
    table->nodes[index] = (node){.high = k.high, .low = k.low, .peer = peer, .bits = bits};
    return index;
}

static void drop_node(tc_allowedips *table, uint32_t index) {
    table->nodes[index].child[0] = table->spare;
    table->spare = index;
}

static int check(int family, uint32_t prefix) {
    return (family == 4 && prefix <= 32) || (family == 6 && prefix <= 128) ? 0 : -EINVAL;
}

int tc_allowedips_add(tc_allowedips *table, int family, const uint8_t *address, uint32_t prefix,
                      uint32_t peer) {
    int error = check(family, prefix);
    if (!error)
        error = reserve(table);
    if (error)
        return error;
    key k = masked(make_key(family, address), prefix);
    uint32_t *slot = &table->root[family == 6];
    while (*slot != NIL) {
        node *n = &table->nodes[*slot];
        uint32_t shared = common_bits(k, key_of(n));
        if (shared > prefix)
            shared = prefix;
        if (shared < n->bits) { /* the new prefix parts here, or holds this node */
            uint32_t below = *slot;
            uint32_t made = make_node(table, k, prefix, peer);
            uint32_t top = made;
            if (shared < prefix) {
                top = make_node(table, k, shared, TC_NO_PEER);
                table->nodes[top].child[bit_at(k, shared)] = made;
            }
            table->nodes[top].child[bit_at(key_of(&table->nodes[below]), shared)] = below;
            *slot = top;
            table->count++;
            return 0;
        }
        if (n->bits == prefix) { /* exactly this prefix: it moves */
            table->count += n->peer == TC_NO_PEER;
            n->peer = peer;
            return 0;
        }
        slot = &n->child[bit_at(k, n->bits)];
    }
    *slot = make_node(table, k, prefix, peer);
    table->count++;
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

int tc_allowedips_remove(tc_allowedips *table, int family, const uint8_t *address, uint32_t prefix,
                         uint32_t peer) {
    int error = check(family, prefix);
    if (error)
        return error;
    key k = masked(make_key(family, address), prefix);
    uint32_t *above = NULL, *slot = &table->root[family == 6];
    while (*slot != NIL) {
        node *n = &table->nodes[*slot];
        if (n->bits > prefix || common_bits(k, key_of(n)) < n->bits)
            break;
        if (n->bits == prefix) {
            if (n->peer != peer)
                break;
            n->peer = TC_NO_PEER;
            table->count--;
            *slot = pruned(table, *slot);
            if (above)
                *above = pruned(table, *above);
            return 0;
        }
        above = slot;
        slot = &n->child[bit_at(k, n->bits)];
    }
    return -ENOENT;
}

/* Depth is at most 129, since each level lengthens the prefix. */
static uint32_t remove_below(tc_allowedips *table, uint32_t index, uint32_t peer) {
    if (index == NIL)
        return NIL;
    for (int side = 0; side < 2; side++) {
        uint32_t child = table->nodes[index].child[side];
        table->nodes[index].child[side] = remove_below(table, child, peer);
    }
    if (table->nodes[index].peer == peer) {
        table->nodes[index].peer = TC_NO_PEER;
        table->count--;
    }
    return pruned(table, index);
}

/* A walk of the whole table: a millisecond at 100,000 prefixes, for something that a person does.
 */
void tc_allowedips_remove_peer(tc_allowedips *table, uint32_t peer) {
    for (int family = 0; family < 2; family++)
        table->root[family] = remove_below(table, table->root[family], peer);
}

static uint32_t find(const tc_allowedips *table, uint32_t index, key k, uint32_t width) {
    uint32_t best = TC_NO_PEER;
    while (index != NIL) {
        const node *n = &table->nodes[index];
        key m = masked(k, n->bits);
        if (m.high != n->high || m.low != n->low)
            break;
        if (n->peer != TC_NO_PEER)
            best = n->peer;
        if (n->bits == width)
            break;
        index = n->child[bit_at(k, n->bits)];
    }
    return best;
}

uint32_t tc_allowedips_find4(const tc_allowedips *table, const uint8_t address[4]) {
    return find(table, table->root[0], make_key(4, address), 32);
}

uint32_t tc_allowedips_find6(const tc_allowedips *table, const uint8_t address[16]) {
    return find(table, table->root[1], make_key(6, address), 128);
}
