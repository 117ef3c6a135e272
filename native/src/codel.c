/* RFC 8289, section 5, a packet at a time. */
#include "codel.h"

/* A queue of one packet more does not stand, however slow the link is. */
enum { ONE_PACKET = 1514 };

static uint64_t root(uint64_t square) {
    uint64_t found = 0;
    for (uint64_t bit = UINT64_C(1) << 31; bit; bit >>= 1)
        if ((found + bit) * (found + bit) <= square)
            found += bit;
    return found;
}

/* An interval divided by the square root of the number of drops. */
static uint64_t spacing(uint32_t count) {
    return root(TC_CODEL_INTERVAL * TC_CODEL_INTERVAL / count);
}

/* Whether the queue has stood for an interval. */
static bool stands(tc_codel *codel, uint64_t waited, uint32_t left, uint64_t target, uint64_t now) {
    if (waited < target || left <= ONE_PACKET) {
        codel->late_from = 0;
        return false;
    }
    if (!codel->late_from)
        codel->late_from = now + TC_CODEL_INTERVAL;
    return now >= codel->late_from;
}

bool tc_codel_drops(tc_codel *codel, uint64_t waited, uint32_t left, uint64_t target,
                    uint64_t now) {
    if (!stands(codel, waited, left, target, now)) {
        codel->dropping = false;
        return false;
    }
    if (codel->dropping) {
        if (now < codel->next)
            return false;
        codel->count += codel->count < UINT32_MAX;
        codel->next += spacing(codel->count);
        return true;
    }
    /* Soon after the last time it takes up where that ended: that rate was about right. */
    uint32_t gained = codel->count - codel->last_count;
    bool soon = (int64_t)(now - codel->next) < (int64_t)(16 * TC_CODEL_INTERVAL);
    codel->dropping = true;
    codel->count = codel->last_count = gained > 1 && soon ? gained : 1;
    codel->next = now + spacing(codel->count);
    return true;
}
