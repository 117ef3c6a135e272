/* Staging: plain packets that wait for a key, the newest TC_STAGED_PACKETS of them. */
#include <errno.h>
#include <stdlib.h>

#include "peer.h"

int tc_stage_put(tc_peer *peer, const uint8_t *packet, uint32_t length, uint64_t now) {
    tc_staged *staged = malloc(sizeof *staged + length);
    if (!staged)
        return -ENOMEM;
    staged->next = NULL;
    staged->since = now;
    staged->length = length;
    memcpy(staged->packet, packet, length);
    tc_staged *displaced = NULL;
    pthread_mutex_lock(&peer->lock);
    if (peer->newest)
        peer->newest->next = staged;
    else
        peer->oldest = staged;
    peer->newest = staged;
    if (peer->staged == TC_STAGED_PACKETS) {
        displaced = peer->oldest;
        peer->oldest = displaced->next;
    } else {
        peer->staged++;
    }
    pthread_mutex_unlock(&peer->lock);
    free(displaced);
    return displaced != NULL;
}

tc_staged *tc_stage_take(tc_peer *peer) {
    pthread_mutex_lock(&peer->lock);
    tc_staged *first = peer->oldest;
    peer->oldest = peer->newest = NULL;
    peer->staged = 0;
    pthread_mutex_unlock(&peer->lock);
    return first;
}

uint32_t tc_stage_drop(tc_peer *peer) {
    uint32_t dropped = 0;
    for (tc_staged *staged = tc_stage_take(peer), *next; staged; staged = next, dropped++) {
        next = staged->next;
        free(staged);
    }
    return dropped;
}
