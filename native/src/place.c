/* Counting who woke us. */
#include "place.h"

/* Rounds above these are not of a packet or two. So many waits in a row make it keep where it is,
 * and so many rounds without one say that there is no end to the packets. */
enum { FEW = 4, SMALL = 4096, CALM = 8, ENDLESS = 16 };

/* Wakes in a row from another processor, after which it goes there: of who has just been answered,
 * for a start, doubled up to the most if the last stay was not worth it; and of all others. The
 * most leaves room for several attempts before the worker at the other end does the same. */
enum { ANSWERED = 3, ANSWERED_MOST = 24, WORTH = 16, OTHERS = 64 };

static bool let_go(tc_place *place) {
    bool changes = place->state == TC_PLACE_KEPT;
    *place = (tc_place){.state = TC_PLACE_FREE};
    return changes;
}

static bool keep_to(tc_place *place, int processor) {
    place->state = TC_PLACE_KEPT;
    place->processor = processor;
    place->stayed = 0;
    return true;
}

/* A real-time thread that is free is sent away by another one that wakes it, if that runs where it
 * would: so it keeps where it is, before anything is known of who wakes it. */
static bool settle(tc_place *place, int here) {
    if (++place->calm < CALM)
        return false;
    place->waker = -1;
    place->patience = ANSWERED;
    return keep_to(place, here);
}

static void look(tc_place *place, const tc_place_round *round) {
    if (round->kind == TC_FROM_LINK) {
        place->from_link = CALM;
    } else if (place->from_link) {
        place->from_link--;
        return;
    }
    if (round->processor != place->waker)
        place->same = 0;
    place->waker = round->processor;
    place->same++;
    if (place->waker == place->processor && ++place->stayed == WORTH)
        place->patience = ANSWERED;
}

static bool follow(tc_place *place, tc_waker_kind kind) {
    if (place->waker < 0 || place->waker == place->processor)
        return false;
    bool answered = place->from_link && kind == TC_FROM_OUTER;
    if (place->same < (answered ? place->patience : OTHERS))
        return false;
    if (place->stayed < WORTH && place->patience < ANSWERED_MOST)
        place->patience *= 2;
    return keep_to(place, place->waker);
}

bool tc_place_note(tc_place *place, const tc_place_round *round) {
    place->unwaited = round->waited ? 0 : place->unwaited + 1;
    if (round->packets > FEW || round->bytes >= SMALL || place->unwaited >= ENDLESS)
        return let_go(place);
    if (!round->waited)
        return false;
    if (place->state == TC_PLACE_FREE)
        return settle(place, round->here);
    look(place, round);
    return follow(place, round->kind);
}
