/* Parsing: packets built by the table, every truncation of them, and random changes under a
 * sanitizer. Comparison with independent dissectors is in tests/test_parse.py. */
#include "check.h"
#include "packet.h"

#include <errno.h>

typedef struct {
    const char *name;
    const char *hex;
    uint32_t padding; /* zero bytes that follow */
    int result;
    tc_packet expected; /* addresses are not compared */
} row;

/* 20 bytes of IPv4 with version/IHL, total, flags and protocol; from 192.0.2.1 to 192.0.2.2. */
#define IP4(first, total, flags, protocol)                                                         \
    first "b8" total "0000" flags "40" protocol "0000c0000201c0000202"
/* 40 bytes of IPv6; traffic class 0xb8. */
#define IP6(length, next)                                                                          \
    "6b800000" length next "40"                                                                    \
    "20010db8000000000000000000000001"                                                             \
    "20010db8000000000000000000000002"
#define TCP "1234005000000001000000025012ffff00000000" /* SYN and ACK */
#define UDP(length) "12340035" length "0000"
#define ECHO "0800000000010001"
#define JUNK "0102030405060708"

#define V4(protocol, at, body, size)                                                               \
    {                                                                                              \
        .version = 4, .transport = protocol, .ds = 0xb8, .transport_offset = at,                   \
        .payload_offset = body, .total = size                                                      \
    }
#define V6(protocol, at, body, size)                                                               \
    {                                                                                              \
        .version = 6, .transport = protocol, .ds = 0xb8, .transport_offset = at,                   \
        .payload_offset = body, .total = size                                                      \
    }

static const row TABLE[] = {
    {"IPv4 alone", IP4("45", "0014", "0000", "fd"), 0, 0, V4(253, 20, 20, 20)},
    {"trailing padding", IP4("45", "0014", "0000", "fd"), 12, 0, V4(253, 20, 20, 20)},
    {"total less than header", IP4("45", "0013", "0000", "fd"), 0, -EBADMSG, {0}},
    {"total more than length", IP4("45", "0015", "0000", "fd"), 0, -EBADMSG, {0}},
    {"total 0", IP4("45", "0000", "0000", "fd"), 0, -EBADMSG, {0}},
    {"header of 16 bytes", IP4("44", "0014", "0000", "fd"), 0, -EBADMSG, {0}},
    {"options", IP4("46", "0018", "0000", "fd"), 4, 0, V4(253, 24, 24, 24)},
    {"options past the total", IP4("47", "0018", "0000", "fd"), 8, -EBADMSG, {0}},
    {"version 5", IP4("55", "0014", "0000", "fd"), 0, -EBADMSG, {0}},
    {"version 0", IP4("05", "0014", "0000", "fd"), 0, -EBADMSG, {0}},
    {"one byte", "45", 0, -EBADMSG, {0}},
    {"nothing", "", 0, -EBADMSG, {0}},
    {"TCP", IP4("45", "0028", "0000", "06") TCP, 0, 0, V4(6, 20, 40, 40)},
    {"TCP, short", IP4("45", "0027", "0000", "06") TCP, 0, -EBADMSG, {0}},
    {"TCP, offset past the end",
     IP4("45", "0028", "0000", "06") "123400500000000100000002f012",
     6,
     -EBADMSG,
     {0}},
    {"TCP, offset below 5",
     IP4("45", "0028", "0000", "06") "123400500000000100000002401200000000",
     2,
     -EBADMSG,
     {0}},
    {"TCP with options", IP4("45", "0030", "4000", "06") "1234005000000001000000027012ffff00000000",
     8, 0, V4(6, 20, 48, 48)},
    {"UDP", IP4("45", "0020", "0000", "11") UDP("000c"), 4, 0, V4(17, 20, 28, 32)},
    {"UDP, shorter inside", IP4("45", "0020", "0000", "11") UDP("0008"), 4, 0, V4(17, 20, 28, 32)},
    {"UDP, longer inside", IP4("45", "0020", "0000", "11") UDP("000d"), 4, -EBADMSG, {0}},
    {"UDP, length 7", IP4("45", "0020", "0000", "11") UDP("0007"), 4, -EBADMSG, {0}},
    {"UDP, length 0", IP4("45", "0020", "0000", "11") UDP("0000"), 4, -EBADMSG, {0}},
    {"ICMP", IP4("45", "001c", "0000", "01") ECHO, 0, 0, V4(1, 20, 28, 28)},
    {"ICMP, short", IP4("45", "001b", "0000", "01") ECHO, 0, -EBADMSG, {0}},
    {"first fragment of UDP", IP4("45", "0020", "2000", "11") UDP("1000"), 4, 0,
     V4(17, 20, 28, 32)},
    {"later fragment", IP4("45", "0020", "2001", "11") JUNK, 4, 0, V4(255, 20, 20, 32)},
    {"last fragment", IP4("45", "0020", "1fff", "11") JUNK, 4, 0, V4(255, 20, 20, 32)},
    {"do not fragment", IP4("45", "0020", "4000", "11") UDP("000c"), 4, 0, V4(17, 20, 28, 32)},
    {"IPv6 alone", IP6("0000", "3b"), 0, 0, V6(255, 40, 40, 40)},
    {"IPv6, short", "6b800000000011", 32, -EBADMSG, {0}},
    {"payload of 65535", IP6("ffff", "11"), 0, -EBADMSG, {0}},
    {"payload of 65496", IP6("ffd8", "11"), 100, -EBADMSG, {0}},
    {"IPv6 UDP", IP6("000c", "11") UDP("000c"), 4, 0, V6(17, 40, 48, 52)},
    {"IPv6 UDP of 65535", IP6("ffff", "11") UDP("ffff"), 65527, 0, V6(17, 40, 48, 65575)},
    {"IPv6 TCP", IP6("0014", "06") TCP, 0, 0, V6(6, 40, 60, 60)},
    {"ICMPv6", IP6("0008", "3a") ECHO, 0, 0, V6(58, 40, 48, 48)},
    {"hop by hop, then UDP", IP6("0010", "00") "1100000000000000" UDP("0008"), 0, 0,
     V6(17, 48, 56, 56)},
    {"extension over the transport",
     IP6("0010", "00") "1101000000000000" UDP("0008"),
     0,
     -EBADMSG,
     {0}},
    {"extension past the end", IP6("0010", "00") "1102000000000000" UDP("0008"), 0, -EBADMSG, {0}},
    {"extension cut off", IP6("0007", "00") "11000000000000", 0, -EBADMSG, {0}},
    {"routing, then TCP", IP6("002c", "2b") "0602000000000000" JUNK JUNK TCP, 0, 0,
     V6(6, 64, 84, 84)},
    {"destination options, then nothing", IP6("0008", "3c") "3b00000000000000", 0, 0,
     V6(255, 48, 48, 48)},
    {"authentication, then UDP", IP6("0018", "33") "1102000000000000" JUNK UDP("0008"), 0, 0,
     V6(17, 56, 64, 64)},
    {"first fragment, then UDP", IP6("0010", "2c") "1100000100000009" UDP("1000"), 0, 0,
     V6(17, 48, 56, 56)},
    {"later fragment", IP6("0010", "2c") "1100000900000009" JUNK, 0, 0, V6(255, 48, 48, 56)},
    {"atomic fragment", IP6("0010", "2c") "1100000000000009" UDP("0008"), 0, 0, V6(17, 48, 56, 56)},
    {"eight destination options",
     IP6("0048", "3c") "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "1100000000000000" UDP("0008"),
     0, 0, V6(17, 104, 112, 112)},
    {"nine",
     IP6("0050", "3c") "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "3c00000000000000"
                       "1100000000000000" UDP("0008"),
     0,
     -EBADMSG,
     {0}},
};

static size_t unhex(const char *hex, uint8_t *out) {
    size_t length = 0;
    for (; *hex; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0};
        out[length++] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return length;
}

static bool same(const tc_packet *a, const tc_packet *b) {
    return a->version == b->version && a->transport == b->transport && a->ds == b->ds &&
           a->transport_offset == b->transport_offset && a->payload_offset == b->payload_offset &&
           a->total == b->total;
}

static uint32_t built(const row *r, uint8_t *packet) {
    size_t length = unhex(r->hex, packet);
    memset(packet + length, 0, r->padding);
    return (uint32_t)length + r->padding;
}

static uint8_t packet[70000];

static void test_table(void) {
    for (size_t i = 0; i < ROWS(TABLE); i++) {
        const row *r = &TABLE[i];
        uint32_t length = built(r, packet);
        uint8_t *exact = check_copy(packet, length);
        tc_packet out;
        int result = tc_parse(exact, length, &out);
        CHECK(i, result == r->result, "%s: answered %d", r->name, result);
        if (!result && !r->result)
            CHECK(i, same(&out, &r->expected), "%s: transport %u at %u, payload at %u, total %u",
                  r->name, out.transport, out.transport_offset, out.payload_offset, out.total);
        free(exact);
    }
}

static void test_fields(void) {
    tc_packet out;
    uint32_t length = (uint32_t)unhex(IP4("45", "0028", "0000", "06") TCP, packet);
    CHECK(1, tc_parse(packet, length, &out) == 0, "TCP");
    CHECK(2, out.source_port == 0x1234 && out.destination_port == 80, "ports");
    CHECK(3, out.tcp_flags == 0x12 && !out.fragment, "flags");
    CHECK(4, tc_get_be32(out.source) == 0xc0000201 && tc_get_be32(out.destination) == 0xc0000202,
          "addresses");
    length = (uint32_t)unhex(IP6("0008", "3a") "8001000000000000", packet);
    CHECK(5, tc_parse(packet, length, &out) == 0, "ICMPv6");
    CHECK(6, out.icmp_type == 128 && out.icmp_code == 1 && !out.source_port, "type and code");
    CHECK(7, out.source[15] == 1 && out.destination[15] == 2, "addresses");
    length = (uint32_t)unhex(IP4("45", "001c", "2001", "11") JUNK, packet);
    CHECK(8, tc_parse(packet, length, &out) == 0 && out.fragment, "a later fragment");
    CHECK(9, !out.source_port && !out.destination_port, "which has no ports");
}

/* What holds for every packet that is taken. */
static void check_sane(long round, const uint8_t *data, uint32_t length) {
    tc_packet out;
    uint32_t total = tc_packet_total(data, length);
    CHECK(round, total <= length, "total %u of %u", total, length);
    if (tc_parse(data, length, &out) < 0)
        return;
    CHECK(round, out.total == total && total >= 20, "totals differ");
    CHECK(round, out.payload_offset <= total && out.transport_offset <= out.payload_offset,
          "offsets %u, %u of %u", out.transport_offset, out.payload_offset, total);
}

static void test_random(void) {
    for (long round = 0; round < 200000; round++) {
        const row *r = &TABLE[check_below(ROWS(TABLE))];
        uint32_t length = built(r, packet);
        if (length > 200)
            length = 200;
        for (uint32_t changes = check_below(6); changes > 0 && length; changes--)
            packet[check_below(length)] = (uint8_t)check_random();
        length = check_below(3) ? length : check_below(length + 1);
        uint8_t *exact = check_copy(packet, length);
        check_sane(round, exact, length);
        free(exact);
    }
}

int main(void) {
    test_table();
    test_fields();
    test_random();
    return CHECK_DONE();
}
