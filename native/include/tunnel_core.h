/* Everything the native core offers. This one file is read by the C compiler and by cffi, so it
 * holds declarations and plain integer constants only: no conditionals, no includes.
 *
 * The core moves packets between links (inside: a TUN queue, or one end of a seqpacket socket pair)
 * and outer UDP sockets. Python decides everything else: it installs keys, sends handshake
 * messages, and learns what happened from events.
 *
 * Conventions: calls answer 0 (or a count, or an identifier) or a negative errno. Descriptors are
 * lent, never closed here. Times are nanoseconds of CLOCK_BOOTTIME, 0 meaning "never". Ports are in
 * host order, addresses in network order. No call blocks; none calls back into Python. */

#define TC_MAX_WORKERS 16
#define TC_MAX_PATHS 4
#define TC_STAGED_PACKETS 128
#define TC_MESSAGE_MAX 160
#define TC_NO_PEER 0xffffffff

/* tc_options.flags: each forces the fallback of one facility of the kernel or the processor, or
 * does without one of ours. */
#define TC_NO_UDP_SEGMENT 1
#define TC_NO_UDP_GRO 2
#define TC_NO_COALESCE_TCP 4
#define TC_NO_COALESCE_UDP 8
#define TC_NO_AVX512 16
#define TC_NO_AVX2 32
#define TC_NO_IFMA 128
#define TC_NO_UPLINK_QUEUE 256
/* And one that asks: workers run in real time where the process may, and else as ever. */
#define TC_REAL_TIME 64

/* Link flags. With TC_LINK_VNET_HDR every read and write on the link starts with the 10-byte
 * struct virtio_net_hdr of linux/virtio_net.h, and a unit may be a super-segment of up to 64 KB. */
#define TC_LINK_VNET_HDR 1
#define TC_LINK_USO 2

/* tc_event.kind */
#define TC_EVENT_MESSAGE 1       /* handshake message with a valid mac1: data, length, endpoint */
#define TC_EVENT_COOKIE_WANTED 2 /* the same under load, without a valid mac2 */
#define TC_EVENT_HANDSHAKE_NEEDED 3 /* peer has packets staged, or its key is due for renewal */
#define TC_EVENT_KEY_CONFIRMED 4    /* peer's next key became current */
#define TC_EVENT_ACTIVE 5           /* first packet since tc_peer_idle: timers need a look */
#define TC_EVENT_ENDPOINT 6         /* peer roamed: endpoint is the new one */
#define TC_EVENT_LINK_FAILED 7      /* value is the errno; the link was detached */
#define TC_EVENT_OUTER_FAILED 8     /* value is the errno, endpoint.path the path; kept attached */

/* tc_peer_info.keys and tc_peer_erase_keys */
#define TC_KEY_PREVIOUS 1
#define TC_KEY_CURRENT 2
#define TC_KEY_NEXT 4

/* Drop reasons and other counters, in the order of tc_counter_name(). */
#define TC_COUNTERS 64

typedef struct tc_engine tc_engine;

typedef struct {
    uint32_t workers;    /* 1 to TC_MAX_WORKERS */
    uint32_t flags;      /* TC_NO_* */
    uint32_t ring_slots; /* events that wait at most: a power of two, 64 to 65536 */
} tc_options;

/* An outer UDP address. family is 0 (none), 4 or 6; an IPv4 address fills the first four bytes.
 * src and src_interface are the local address that the peer last used, zeros when unknown. */
typedef struct {
    uint8_t family;
    uint8_t path;
    uint16_t port;
    uint32_t scope;
    uint32_t src_interface;
    uint8_t address[16];
    uint8_t src[16];
} tc_endpoint;

typedef struct {
    uint32_t kind;
    uint32_t peer;
    int32_t value;
    uint32_t length;
    tc_endpoint endpoint;
    uint8_t data[160];
} tc_event;

/* Transport keys of one session, as its handshake gave them. Copied in; the caller wipes them. */
typedef struct {
    uint32_t local_index;  /* what the peer writes into packets for us */
    uint32_t remote_index; /* what we write into packets for the peer */
    uint8_t initiator;
    uint8_t send_key[32];
    uint8_t receive_key[32];
} tc_keypair;

typedef struct {
    tc_endpoint endpoint;
    uint64_t rx_bytes;
    uint64_t tx_bytes;
    uint64_t rx_packets;
    uint64_t tx_packets;
    uint64_t last_sent;        /* newest authenticated packet sent, keepalives included */
    uint64_t last_received;    /* newest authenticated packet received, keepalives included */
    uint64_t unanswered_since; /* oldest data sent with nothing authenticated received since */
    uint64_t unacked_since;    /* oldest data received with nothing authenticated sent since */
    uint64_t key_created;      /* when the current key was installed */
    uint32_t staged;
    uint32_t keys; /* TC_KEY_* that are there */
} tc_peer_info;

/* One packet, or one super-segment of equal segments, in a buffer. */
typedef struct {
    uint32_t offset;
    uint32_t length;
    uint16_t segment; /* payload bytes a segment, 0 for a plain packet */
    uint16_t flags;   /* TC_SPAN_* */
} tc_span;

#define TC_SPAN_NEEDS_CHECKSUM 1
#define TC_SPAN_BROKEN 2 /* its checksums are wrong */

/* What the parser finds in one IP packet. Offsets count from the packet's first byte; payload ends
 * at total. ports are 0 and transport 255 for a fragment other than the first. */
typedef struct {
    uint8_t version;
    uint8_t transport; /* IP protocol number after extension headers */
    uint8_t ds;        /* DS field and ECN */
    uint8_t fragment;  /* 1 for any fragment */
    uint8_t tcp_flags;
    uint8_t icmp_type;
    uint8_t icmp_code;
    uint16_t source_port;
    uint16_t destination_port;
    uint16_t transport_offset;
    uint16_t payload_offset;
    uint32_t total;
    uint8_t source[16];
    uint8_t destination[16];
} tc_packet;

/* ---- engine ---- */
int tc_engine_new(const tc_options *options, tc_engine **engine);
void tc_engine_free(tc_engine *engine); /* stops the workers, wipes every key */
int tc_engine_start(tc_engine *engine);
int tc_engine_stop(tc_engine *engine);
int tc_engine_event_fd(const tc_engine *engine);
int tc_engine_events(tc_engine *engine, tc_event *events, uint32_t count);
/* mac1 of arriving messages is checked against this static public key; NULL refuses them all. */
int tc_engine_identity(tc_engine *engine, const uint8_t *public_key);
/* mac2 is checked against cookies made from this 32-byte secret, which Python renews. */
int tc_engine_cookie_secret(tc_engine *engine, const uint8_t *secret);
int tc_engine_counters(tc_engine *engine, uint64_t *values, uint32_t count);
const char *tc_counter_name(uint32_t index);
uint64_t tc_engine_now(const tc_engine *engine);
/* Moves the engine's clock forward, as a suspend would. For tests. */
int tc_engine_advance_clock(tc_engine *engine, uint64_t nanoseconds);

/* ---- links (inside) and outer sockets (outside), per worker ---- */
int tc_link_attach(tc_engine *engine, uint32_t worker, int fd, uint32_t flags, uint32_t mtu);
int tc_link_detach(tc_engine *engine, uint32_t worker);
int tc_link_mtu(tc_engine *engine, uint32_t mtu);
/* The userspace stack's link beside the others: what was claimed of the received packets leaves by
 * it, coalesced; what it gives is sealed like what a link gives. */
int tc_port_attach(tc_engine *engine, int fd, uint32_t flags);
int tc_port_detach(tc_engine *engine);
/* Claims a port of TCP (6) or UDP (17), or an echo identifier (1), on every address; or gives it
 * back. -EEXIST or -ENOENT where nothing changes. */
int tc_claim(tc_engine *engine, int protocol, uint32_t port, int on);
int tc_outer_attach(tc_engine *engine, uint32_t worker, uint32_t path, int fd4, int fd6);
int tc_outer_detach(tc_engine *engine, uint32_t path);
/* A socket beside those of the path, bound to the src of `to` and connected to it: what goes there
 * leaves by it, until the path's are attached anew or detached. -1 takes it away; what it has
 * received is read before. Only with one worker; made by the host's thread, where there is one. */
int tc_outer_connect(tc_engine *engine, const tc_endpoint *to, int fd);

/* ---- a userspace stack's thread that takes the worker's turns (host.h) ---- */
/* Offers to, with `fd` as the stack's end of the link. Answers a descriptor, the engine's, that is
 * readable when tc_host_read has something. -EINVAL with several workers, -EBUSY if there is one.
 * One thread at a time makes these calls. */
int tc_host_enter(tc_engine *engine, int fd, uint32_t link_flags);
int tc_host_leave(tc_engine *engine);
/* Whether the host has the turns; where `on` is 0 they are given back. */
int tc_host_keep(tc_engine *engine, int on);
/* As tc_flow_read with TC_FLOW_VERIFIED, from the link or, in a turn, from the sockets. */
int tc_host_read(tc_engine *engine, uint8_t *buffer, uint32_t size, tc_span *spans, uint32_t count);
/* Sends units at once: for each its length in four bytes of this machine's order, struct
 * virtio_net_hdr and the packet. -EAGAIN without the turns. */
int tc_host_write(tc_engine *engine, const uint8_t *data, uint32_t size);

/* ---- peers ---- */
int tc_peer_add(tc_engine *engine);
int tc_peer_remove(tc_engine *engine, uint32_t peer);
int tc_peer_info_get(tc_engine *engine, uint32_t peer, tc_peer_info *info);
int tc_peer_endpoint(tc_engine *engine, uint32_t peer, const tc_endpoint *endpoint);
/* An initiator's keys become current at once; a responder's wait as next until confirmed. */
int tc_peer_install(tc_engine *engine, uint32_t peer, const tc_keypair *keys);
int tc_peer_erase_keys(tc_engine *engine, uint32_t peer, uint32_t which);
/* Sends what is staged, or one keepalive when nothing is. -ENOKEY without a usable key. */
int tc_peer_flush(tc_engine *engine, uint32_t peer);
int tc_peer_drop_staged(tc_engine *engine, uint32_t peer);
/* Asks for TC_EVENT_ACTIVE at the peer's next packet, sent or received. */
int tc_peer_idle(tc_engine *engine, uint32_t peer);
/* Accounts for an authenticated handshake message of `bytes` that came from the peer: the engine
 * cannot know which messages were good. */
int tc_peer_touch(tc_engine *engine, uint32_t peer, uint32_t bytes);
/* Sends one handshake message, with ds as outer DS byte: to the peer's endpoint, or an address. */
int tc_peer_send(tc_engine *engine, uint32_t peer, const uint8_t *data, uint32_t length,
                 uint8_t ds);
int tc_send(tc_engine *engine, const tc_endpoint *to, const uint8_t *data, uint32_t length,
            uint8_t ds);

/* family is 4 or 6, address network order. Adding moves an existing prefix to the new peer. */
int tc_allowed_add(tc_engine *engine, uint32_t peer, int family, const uint8_t *address,
                   uint32_t prefix);
int tc_allowed_remove(tc_engine *engine, uint32_t peer, int family, const uint8_t *address,
                      uint32_t prefix);
int tc_allowed_clear(tc_engine *engine, uint32_t peer);
int64_t tc_allowed_find(tc_engine *engine, int family, const uint8_t *address);

/* ---- batches of packets for Python (PacketFlow) ---- */
/* What tc_flow_read gives: plain packets; super-segments whole; or these with TC_SPAN_BROKEN told
 * for those that carry complete checksums, which are verified. */
#define TC_FLOW_PACKETS 0
#define TC_FLOW_UNITS 1
#define TC_FLOW_VERIFIED 2
/* Reads until the link has no more, or the buffer or the spans might not hold another read: that
 * is 65,600 bytes and a span with units; without, super-segments are cut into packets with complete
 * checksums, which takes up to 131,200 bytes and 1,024 spans. Answers the number of spans, -EAGAIN
 * for none, -EPIPE at the end of a socket. */
int tc_flow_read(int fd, uint32_t link_flags, int units, uint8_t *buffer, uint32_t size,
                 tc_span *spans, uint32_t count);
/* Writes spans in order; answers how many were taken, -EAGAIN for none. Malformed packets are
 * skipped, and counted in *refused. Packets of one flow that follow each other are coalesced where
 * the link has TC_LINK_VNET_HDR. A span with a segment size or TC_SPAN_NEEDS_CHECKSUM is TCP or UDP
 * and gets its checksums here. */
int tc_flow_write(int fd, uint32_t link_flags, const uint8_t *buffer, uint32_t size,
                  const tc_span *spans, uint32_t count, uint32_t *refused);

/* ---- single operations, for handshakes, tests and benchmarks ---- */
int tc_parse(const uint8_t *packet, uint32_t length, tc_packet *out);
void tc_hchacha20(const uint8_t *key, const uint8_t *nonce, uint8_t *out);
int tc_seal(const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out);
int tc_open(const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out);
/* What an engine with these flags seals and opens packets with: "avx512ifma", "avx512", "avx2",
 * "libcrypto". */
const char *tc_crypto_name(uint32_t flags);
/* Overwrites memory in a way that the compiler may not drop. */
void tc_wipe(uint8_t *memory, uint32_t length);
