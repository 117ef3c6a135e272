/* The window is a ring of 64-bit words; the word of the newest counter is the front. Moving the
 * front clears the words that it passes, so a word never holds bits of two laps. */
#include "replay.h"

#define WORDS (TC_REPLAY_BITS / 64)

bool tc_replay_accept(tc_replay *replay, uint64_t counter) {
    if (counter >= TC_REJECT_AFTER_MESSAGES)
        return false;
    uint64_t next = counter + 1; /* so that 0 can mean that nothing has come yet */
    if (next > replay->newest) {
        uint64_t from = replay->newest / 64, to = next / 64;
        uint64_t passed = to - from < WORDS ? to - from : WORDS;
        for (uint64_t i = 1; i <= passed; i++)
            replay->bitmap[(from + i) % WORDS] = 0;
        replay->newest = next;
    } else if (replay->newest - next > TC_REPLAY_WINDOW) {
        return false;
    }
    uint64_t *word = &replay->bitmap[next / 64 % WORDS];
    uint64_t bit = UINT64_C(1) << (next % 64);
    bool fresh = !(*word & bit);
    *word |= bit;
    return fresh;
}
