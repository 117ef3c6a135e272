/* Allowed IPs: longest-prefix match from an address to a peer, for tens of thousands of prefixes.
 * Readers run under the engine's shared lock, writers under its exclusive one. */
#ifndef TC_ALLOWEDIPS_H
#define TC_ALLOWEDIPS_H

#include "core.h"

typedef struct tc_allowedips tc_allowedips; /* both families */

tc_allowedips *tc_allowedips_new(void);
void tc_allowedips_free(tc_allowedips *table);
/* family 4 or 6. Host bits of the address are ignored. A prefix that another peer holds moves.
 * Peers are small numbers: a table is indexed by them. 0, -EINVAL, -ENOMEM. */
int tc_allowedips_add(tc_allowedips *table, int family, const uint8_t *address, uint32_t prefix,
                      uint32_t peer);
/* Removes exactly this prefix if it is peer's: 0 or -ENOENT. */
int tc_allowedips_remove(tc_allowedips *table, int family, const uint8_t *address, uint32_t prefix,
                         uint32_t peer);
void tc_allowedips_remove_peer(tc_allowedips *table, uint32_t peer);
/* The peer of the longest prefix that holds the address, TC_NO_PEER for none. */
uint32_t tc_allowedips_find4(const tc_allowedips *table, const uint8_t address[4]);
uint32_t tc_allowedips_find6(const tc_allowedips *table, const uint8_t address[16]);
size_t tc_allowedips_count(const tc_allowedips *table);

#endif
