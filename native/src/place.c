/* Counting who woke us. */
#include "place.h"

/* Rounds above these are not of a packet or two. So many waits in a row decide, and so many rounds
 * without one say that there is no end to the packets. */
enum { FEW = 4, SMALL = 4096, DECIDED = 8, ENDLESS = 16 };

static bool enter(tc_place *place, tc_place_state state) {
    bool changes = place->state != state;
    *place = (tc_place){.state = state, .processor = -1};
    return changes;
}

static bool look(tc_place *place, const tc_place_round *round) {
    if (round->kind == TC_FROM_LINK) {
        place->from_link = DECIDED;
    } else if (place->from_link) {
        place->from_link--;
        return false;
    }
    if (round->processor != place->processor) {
        place->processor = round->processor;
        place->same = 0;
    }
    return place->processor >= 0 && ++place->same == DECIDED;
}

bool tc_place_note(tc_place *place, const tc_place_round *round) {
    place->unwaited = round->waited ? 0 : place->unwaited + 1;
    if (round->packets > FEW || round->bytes >= SMALL || place->unwaited >= ENDLESS)
        return enter(place, TC_PLACE_BUSY);
    if (!round->waited)
        return false;
    if (place->state == TC_PLACE_BUSY)
        return ++place->calm >= DECIDED && enter(place, TC_PLACE_LOOKING);
    if (!look(place, round))
        return false;
    place->state = TC_PLACE_KEPT;
    return true;
}
