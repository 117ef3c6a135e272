/* Checksums against the sum of RFC 1071 written down plainly, at every length and alignment. */
#include "check.h"
#include "checksum.h"

/* The sum over big-endian 16-bit words, a last odd byte padded with zero. */
static uint16_t plain(const uint8_t *data, size_t length) {
    uint32_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static uint16_t in_order(uint16_t folded) {
    uint8_t bytes[2];
    memcpy(bytes, &folded, 2);
    return tc_get_be16(bytes);
}

/* RFC 1071, section 3: these eight bytes add up to 0xddf2. */
static void test_rfc(void) {
    static const uint8_t EXAMPLE[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    CHECK(1, in_order(tc_checksum_fold(tc_checksum_add(0, EXAMPLE, 8))) == 0xddf2, "sum");
    CHECK(2, tc_checksum_fold(0) == 0, "nothing");
    static uint8_t ones[65536];
    memset(ones, 0xff, sizeof ones);
    CHECK(3, tc_checksum_fold(tc_checksum_add(0, ones, sizeof ones)) == 0xffff, "all ones");
    CHECK(4, tc_checksum_fold(UINT64_MAX) == 0xffff, "the largest accumulator");
    CHECK(5, tc_checksum_fold(UINT64_MAX - 1) == 0xfffe, "the one before it");
}

static void test_lengths(size_t length, size_t offset) {
    static uint8_t memory[65700], copied[65700];
    uint8_t *data = memory + offset;
    check_fill(data, length);
    if (check_below(8) == 0)
        memset(data, 0xff, length);
    uint16_t expected = plain(data, length);
    uint8_t *exact = check_copy(data, length);
    CHECK(length, in_order(tc_checksum_fold(tc_checksum_add(0, exact, length))) == expected,
          "sum at the end of memory");
    free(exact);
    CHECK(length, in_order(tc_checksum_fold(tc_checksum_add(0, data, length))) == expected,
          "sum at offset %zu", offset);
    size_t to = check_below(16);
    memset(copied, 0xee, length + 32);
    uint64_t sum = tc_checksum_copy(0, copied + to, data, length);
    CHECK(length, in_order(tc_checksum_fold(sum)) == expected, "copy from %zu to %zu", offset, to);
    CHECK(length, memcmp(copied + to, data, length) == 0, "the copy differs");
    CHECK(length, copied[to + length] == 0xee && (!to || copied[to - 1] == 0xee),
          "the copy wrote too much");
    /* In pieces, of which all but the last are even. */
    size_t piece = check_below((uint32_t)length / 2 + 1) * 2;
    sum = tc_checksum_add(0, data, piece);
    sum = tc_checksum_copy(sum, copied, data + piece, length - piece);
    CHECK(length, in_order(tc_checksum_fold(sum)) == expected, "in pieces of %zu", piece);
}

static void test_pseudo(int version, uint8_t protocol, uint32_t length) {
    uint8_t header[40] = {0}, source[16], destination[16];
    size_t size = version == 4 ? 4 : 16;
    check_fill(source, 16);
    check_fill(destination, 16);
    memcpy(header, source, size);
    memcpy(header + size, destination, size);
    tc_put_be32(header + 2 * size, length); /* IPv4's form adds up to the same */
    header[2 * size + 7] = protocol;
    uint16_t got =
        tc_checksum_fold(tc_checksum_pseudo(version, source, destination, protocol, length));
    CHECK(length, in_order(got) == plain(header, 2 * size + 8), "pseudo-header of IPv%d", version);
}

int main(void) {
    test_rfc();
    for (size_t length = 0; length < 300; length++)
        for (size_t offset = 0; offset < 9; offset++)
            test_lengths(length, offset);
    for (int round = 0; round < 300; round++)
        test_lengths(check_below(65536), check_below(64));
    test_lengths(65535, 1);
    for (int round = 0; round < 200; round++)
        test_pseudo(check_below(2) ? 4 : 6, (uint8_t)check_below(256), check_below(65536));
    return CHECK_DONE();
}
