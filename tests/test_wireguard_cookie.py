"""MACs and cookies: keys, the sender's jar and the responder's issuer."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address

import pytest
from cryptography.exceptions import InvalidTag

from providers.wireguard.cookie import CookieIssuer, CookieJar, Macs, mac, xopen, xseal
from providers.wireguard.messages import (
    COOKIE_SECRET_TIME,
    NO_MAC,
    SECOND,
    CookieReply,
    Initiation,
    Response,
)
from tests.vectors import load_vectors

OWN = bytes(range(32))  # the public key of whoever is under load
SOURCE = ip_address("192.0.2.7")
PORT = 51820


def initiation(sender: int = 7) -> bytes:
    return Initiation(sender, bytes(32), bytes(48), bytes(28)).pack()


def test_xchacha20_poly1305_agrees_with_wycheproof():
    groups = load_vectors("wycheproof/xchacha20_poly1305_test.json")["testGroups"]
    tests = [t for g in groups if g["ivSize"] == 192 for t in g["tests"]]
    assert len(tests) > 50
    for test in tests:
        key, nonce, ad = (bytes.fromhex(test[name]) for name in ("key", "iv", "aad"))
        plain, sealed = bytes.fromhex(test["msg"]), bytes.fromhex(test["ct"] + test["tag"])
        if test["result"] == "valid":
            assert xseal(key, nonce, plain, ad) == sealed
            assert xopen(key, nonce, sealed, ad) == plain
        else:
            with pytest.raises(InvalidTag):
                xopen(key, nonce, sealed, ad)


def test_mac1_is_keyed_with_the_receiver_and_covers_everything_before_it():
    signed = CookieJar(OWN).sign(initiation(), now=0)
    key = hashlib.blake2s(b"mac1----" + OWN).digest()
    assert signed[116:132] == hashlib.blake2s(signed[:116], key=key, digest_size=16).digest()


@pytest.mark.parametrize(
    "message", [initiation(), Response(1, 2, bytes(32), bytes(16)).pack()], ids=["first", "second"]
)
def test_mac2_is_zero_without_a_cookie_and_keyed_with_it_afterwards(message):
    jar, issuer = CookieJar(OWN), CookieIssuer()
    signed = jar.sign(message, now=0)
    assert signed[-16:] == NO_MAC
    assert jar.take(issuer.reply(Macs(OWN), signed, SOURCE, PORT, 0), now=0)
    again = jar.sign(message, now=1)
    assert again[-16:] == mac(issuer.cookie(SOURCE, PORT, 1), again[:-16])


def jar_with_cookie() -> CookieJar:
    jar = CookieJar(OWN)
    signed = jar.sign(initiation(), now=0)
    assert jar.take(CookieIssuer().reply(Macs(OWN), signed, SOURCE, PORT, 0), now=0)
    return jar


@pytest.mark.parametrize(("age", "used"), [(0, True), (114.9, True), (120, False), (1000, False)])
def test_a_cookie_is_used_for_115_to_120_seconds(age, used):
    signed = jar_with_cookie().sign(initiation(), now=round(age * SECOND))
    assert (signed[-16:] != NO_MAC) is used


# What may not be taken: each case is a reply to a message that was signed for OWN with sender 7.
REFUSED = {
    "another receiver": lambda r: CookieReply(8, r.nonce, r.cookie),
    "an altered nonce": lambda r: CookieReply(7, bytes(24), r.cookie),
    "an altered cookie": lambda r: CookieReply(7, r.nonce, bytes(32)),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_replies_that_are_not_taken(change):
    jar = CookieJar(OWN)
    signed = jar.sign(initiation(7), now=0)
    reply = CookieIssuer().reply(Macs(OWN), signed, SOURCE, PORT, 0)
    assert not jar.take(change(reply), now=0)
    assert jar.sign(initiation(7), now=0)[-16:] == NO_MAC


def test_a_reply_is_bound_to_the_mac1_that_it_answers():
    jar, issuer = CookieJar(OWN), CookieIssuer()
    old = jar.sign(initiation(7), now=0)
    reply = issuer.reply(Macs(OWN), old, SOURCE, PORT, 0)
    # The same sender index, another body, so another mac1.
    jar.sign(Initiation(7, bytes([1] * 32), bytes(48), bytes(28)).pack(), now=0)
    assert not jar.take(reply, now=0)


def test_a_reply_from_somebody_else_is_not_taken():
    jar = CookieJar(OWN)
    signed = jar.sign(initiation(7), now=0)
    forged = CookieIssuer().reply(Macs(bytes(32)), signed, SOURCE, PORT, 0)
    assert not jar.take(forged, now=0)


def test_a_reply_is_taken_once():
    jar = CookieJar(OWN)
    signed = jar.sign(initiation(7), now=0)
    reply = CookieIssuer().reply(Macs(OWN), signed, SOURCE, PORT, 0)
    assert jar.take(reply, now=0)
    assert not jar.take(reply, now=0)


def test_nothing_is_taken_before_anything_was_sent():
    reply = CookieIssuer().reply(Macs(OWN), initiation(7), SOURCE, PORT, 0)
    assert not CookieJar(OWN).take(reply, now=0)


def test_a_cookie_depends_on_address_and_port():
    issuer = CookieIssuer()
    cookies = {
        issuer.cookie(ip_address(address), port, 0)
        for address in ("192.0.2.7", "192.0.2.8", "2001:db8::1")
        for port in (1000, 1001)
    }
    assert len(cookies) == 6


def test_the_cookie_is_the_mac_that_the_engine_checks():
    # Address, then port in network order, keyed with the secret: the engine does the same in C.
    issuer = CookieIssuer()
    expected = hashlib.blake2s(
        bytes([192, 0, 2, 7, PORT >> 8, PORT & 255]), key=issuer.secret, digest_size=16
    ).digest()
    assert issuer.cookie(SOURCE, PORT, 0) == expected


def test_the_secret_rotates_120_seconds_after_its_first_cookie():
    issuer = CookieIssuer()
    assert issuer.deadline is None
    assert not issuer.rotate(10**18)
    old = bytes(issuer.secret)
    issuer.cookie(SOURCE, PORT, 50)
    assert issuer.deadline == 50 + COOKIE_SECRET_TIME
    issuer.cookie(SOURCE, PORT, 60 * SECOND)
    assert not issuer.rotate(50 + COOKIE_SECRET_TIME - 1)
    assert bytes(issuer.secret) == old
    assert issuer.rotate(50 + COOKIE_SECRET_TIME)
    assert bytes(issuer.secret) != old
    assert issuer.deadline is None


def test_the_reply_is_what_the_paper_says():
    # 5.4.7: XAEAD(HASH("cookie--" || own public key), nonce, cookie, mac1 of the message)
    issuer, signed = CookieIssuer(), CookieJar(OWN).sign(initiation(), now=0)
    reply = issuer.reply(Macs(OWN), signed, SOURCE, PORT, 0)
    key = hashlib.blake2s(b"cookie--" + OWN).digest()
    cookie = xopen(key, reply.nonce, reply.cookie, signed[116:132])
    assert cookie == issuer.cookie(SOURCE, PORT, 0)
    assert reply.receiver == 7


def test_nonces_of_replies_differ():
    issuer, signed = CookieIssuer(), CookieJar(OWN).sign(initiation(), now=0)
    replies = [issuer.reply(Macs(OWN), signed, SOURCE, PORT, 0) for _ in range(3)]
    assert len({reply.nonce for reply in replies}) == 3


def test_wiping():
    issuer = CookieIssuer()
    secret = issuer.secret
    issuer.wipe()
    assert not any(secret)
    jar = jar_with_cookie()
    jar.wipe()
    assert jar.sign(initiation(), now=1)[-16:] == NO_MAC
