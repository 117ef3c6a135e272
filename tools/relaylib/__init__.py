"""The relay behind tools/relay: UDP datagrams over a path that it makes up.

settings    what a path is like, each way, and what of it makes no sense
profiles    paths by name
relay       the relay running; relay.c is its packet path, with
            path.c        what becomes of a datagram (pure)
            departures.c  what is under way
            clients.c     who sends
report      the statistics as a table (pure)
"""
