/* When a worker pauses. */
#include "gather.h"

#include <time.h>

/* Rounds of fewer bytes than this are thin, and after so many of them there is a pause of so many
 * nanoseconds. It was worth it if it brought so many packets; else it takes twice as many rounds to
 * the next one, up to so many. */
enum { THIN = 4096, BULK = 16384, THIN_ROUNDS = 8, PAUSE = 200 * 1000 };
enum { WORTH = 8, THIN_ROUNDS_MOST = 1024 };

void tc_gather_init(tc_gather *gather) {
    *gather = (tc_gather){.patience = THIN_ROUNDS};
}

static void lose_patience(tc_gather *gather) {
    gather->thin_rounds = 0;
    if (gather->patience < THIN_ROUNDS_MOST)
        gather->patience *= 2;
}

static bool wanted(tc_gather *gather) {
    if (gather->paused && gather->packets < WORTH) {
        lose_patience(gather);
        return false;
    }
    bool gathering = gather->thin_rounds > gather->patience;
    bool again = gathering ? gather->bytes < BULK : gather->bytes < THIN && gather->soon;
    if (gather->paused)
        gather->patience = THIN_ROUNDS;
    gather->thin_rounds = again ? gather->thin_rounds + 1 : 0;
    return gather->thin_rounds > gather->patience && !gather->more;
}

bool tc_gather_pause(tc_gather *gather) {
    gather->paused = wanted(gather);
    if (gather->paused)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = PAUSE}, NULL);
    return gather->paused;
}

void tc_gather_in_vain(tc_gather *gather) {
    if (gather->paused)
        lose_patience(gather);
    gather->paused = false;
}

void tc_gather_begin(tc_gather *gather, uint64_t now) {
    gather->soon = now - gather->begun < PAUSE;
    gather->begun = now;
    gather->packets = gather->bytes = 0;
    gather->more = false;
}
