/* What the userspace stack has claimed of the tunnel's traffic, and its link: the port. Received
 * packets of a claimed port, echo identifier or address go out of the port, all others to the
 * TUN. Changed under the engine's exclusive lock, read under the shared one. */
#ifndef TC_CLAIMS_H
#define TC_CLAIMS_H

#include "core.h"

enum { TC_CLAIM_TCP, TC_CLAIM_UDP, TC_CLAIM_ECHO, TC_CLAIM_KINDS };

typedef struct {
    uint8_t ports[TC_CLAIM_KINDS][65536 / 8];
    uint32_t count;
} tc_claims;

typedef enum { TC_FOR_LINK, TC_FOR_PORT, TC_FOR_BOTH } tc_destination;

/* 0, -EINVAL for another protocol than TCP, UDP and ICMP (echo identifiers of both versions),
 * -EEXIST or -ENOENT where nothing changes. */
int tc_claims_set(tc_claims *claims, int protocol, uint32_t port, bool on);
/* Whom a received packet is for. Later fragments have no ports, so both get them; an error is for
 * who sent what it quotes. */
tc_destination tc_claims_find(const tc_claims *claims, const uint8_t *packet, uint32_t length);

#endif
