/* What is under way: a heap of datagrams by when they leave, those of one moment in the order in
 * which they came. */
#ifndef RELAY_DEPARTURES_H
#define RELAY_DEPARTURES_H
#include <stdint.h>

struct datagram {
    uint32_t size, generation;
    int client, direction;
    uint8_t data[];
};

struct departure {
    double due;
    uint64_t number; /* in the order of arrival */
    struct datagram *datagram;
};

/* Answers 0, or -1 where there is no memory. */
int departures_push(double due, struct datagram *datagram);

/* The earliest; NULL where there is none. */
const struct departure *departures_first(void);

struct departure departures_pop(void);
#endif
