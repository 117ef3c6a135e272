/* Becoming a real-time thread, and ceasing to be one. */
#include "urgency.h"

#include <pthread.h>

static const uint64_t LONGEST = 100 * 1000 * 1000; /* nanoseconds without a pause */

static bool become(int policy, int priority) {
    struct sched_param parameter = {.sched_priority = priority};
    return pthread_setschedparam(pthread_self(), policy, &parameter) == 0;
}

void tc_urgency_begin(tc_urgency *urgency, bool wanted, uint64_t now) {
    bool permitted = wanted && become(SCHED_RR, sched_get_priority_min(SCHED_RR));
    *urgency = (tc_urgency){.permitted = permitted, .real_time = permitted, .rested = now};
}

void tc_urgency_rest(tc_urgency *urgency, uint64_t now) {
    urgency->rested = now;
    if (urgency->permitted && !urgency->real_time)
        urgency->real_time = become(SCHED_RR, sched_get_priority_min(SCHED_RR));
}

void tc_urgency_go_on(tc_urgency *urgency, uint64_t now) {
    if (urgency->real_time && now - urgency->rested > LONGEST)
        urgency->real_time = !become(SCHED_OTHER, 0);
}

void tc_urgency_keep_to(tc_urgency *urgency, int processor) {
    if (processor < 0) {
        if (urgency->kept)
            (void)sched_setaffinity(0, sizeof urgency->free, &urgency->free);
        urgency->kept = false;
        return;
    }
    if (!urgency->kept && sched_getaffinity(0, sizeof urgency->free, &urgency->free) < 0)
        return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    if (CPU_ISSET(processor, &urgency->free) && sched_setaffinity(0, sizeof one, &one) == 0)
        urgency->kept = true;
}
