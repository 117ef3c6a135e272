#include "departures.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

static struct departure *heap;
static size_t waiting, room;
static uint64_t numbers;

static bool earlier(const struct departure *a, const struct departure *b) {
    return a->due < b->due || (a->due == b->due && a->number < b->number);
}

int departures_push(double due, struct datagram *datagram) {
    if (waiting == room) {
        size_t wanted = room ? room * 2 : 1024;
        struct departure *larger = realloc(heap, wanted * sizeof *heap);
        if (!larger)
            return -1;
        heap = larger;
        room = wanted;
    }
    struct departure added = {due, numbers++, datagram};
    size_t at = waiting++;
    for (; at && earlier(&added, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = added;
    return 0;
}

const struct departure *departures_first(void) {
    return waiting ? heap : NULL;
}

struct departure departures_pop(void) {
    struct departure first = heap[0];
    struct departure last = heap[--waiting];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < waiting; at = child) {
        if (child + 1 < waiting && earlier(&heap[child + 1], &heap[child]))
            child++;
        if (!earlier(&heap[child], &last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return first;
}
