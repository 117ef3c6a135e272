/* What the C tests share. A check that fails prints its place, the row of its table and what was
 * wrong, and the test goes on; CHECK_DONE() is the exit code. */
#ifndef TC_CHECK_H
#define TC_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "core.h"

static unsigned check_count, check_failures;

/* row: the number of the table's row or of the round, -1 where there is none. */
#define CHECK(row, condition, ...)                                                                 \
    do {                                                                                           \
        check_count++;                                                                             \
        if (!(condition)) {                                                                        \
            check_failures++;                                                                      \
            fprintf(stderr, "%s:%d: row %ld: ", __FILE__, __LINE__, (long)(row));                  \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, " [%s]\n", #condition);                                                \
        }                                                                                          \
    } while (0)

#define CHECK_DONE()                                                                               \
    (printf("%u checks, %u failures\n", check_count, check_failures), check_failures ? 1 : 0)

#define ROWS(table) (sizeof(table) / sizeof *(table))

/* A fixed seed gives the same run everywhere (xorshift64*, Vigna 2016). A long run is made in
 * pieces by other seeds, of any value but that which would leave nothing but zeros. */
static uint64_t check_state = UINT64_C(0x9e3779b97f4a7c15);

static inline void check_seed(uint64_t seed) {
    check_state ^= seed * UINT64_C(0xd1342543de82ef95);
    check_state += !check_state;
}

static inline uint64_t check_random(void) {
    check_state ^= check_state >> 12;
    check_state ^= check_state << 25;
    check_state ^= check_state >> 27;
    return check_state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline uint32_t check_below(uint32_t limit) {
    return (uint32_t)((check_random() >> 32) * limit >> 32);
}

static inline void check_fill(uint8_t *to, size_t length) {
    for (size_t i = 0; i < length; i++)
        to[i] = (uint8_t)(check_random() >> 56);
}

/* A copy that ends where its memory ends, so that a sanitizer sees a read past it. */
static inline uint8_t *check_copy(const void *from, size_t length) {
    uint8_t *copy = malloc(length ? length : 1);
    if (!copy)
        abort();
    if (length)
        memcpy(copy, from, length);
    return copy;
}

#endif
