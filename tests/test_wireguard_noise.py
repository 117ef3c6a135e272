"""The Noise layer against public vectors: KDF, X25519, and a whole exchange of the pattern."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from providers.wireguard import noise
from providers.wireguard.messages import PROTOCOL_NAME
from providers.wireguard.noise import NoiseError, SymmetricState
from tests.vectors import load_vectors


def test_kdf_vectors():
    for case in load_vectors("kdf.json")["cases"]:
        key, material = bytes.fromhex(case["key"]), bytes.fromhex(case["input"])
        expected = [bytes.fromhex(text) for text in case["t"]]
        for outputs in (1, 2, 3):
            assert noise.kdf(key, material, outputs) == expected[:outputs]


def private(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


def test_the_pattern_agrees_with_a_public_vector():
    (vector,) = load_vectors("noise/IKpsk2_25519_ChaChaPoly_BLAKE2s.json")["vectors"]
    assert vector["protocol_name"].encode() == PROTOCOL_NAME
    init_static, resp_static = private(vector["init_static"]), private(vector["resp_static"])
    init_ephemeral = private(vector["init_ephemeral"])
    resp_ephemeral = private(vector["resp_ephemeral"])
    prologue = bytes.fromhex(vector["init_prologue"])
    psk = bytes.fromhex(vector["init_psks"][0])
    messages = [
        (bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]
    ]
    resp_public = noise.public_bytes(resp_static)
    init_public = noise.public_bytes(init_static)
    shared = noise.dh(init_static, resp_public)

    initiator = noise.start(PROTOCOL_NAME, prologue, resp_public)
    payload, ciphertext = messages[0]
    first = noise.write_first(initiator, init_ephemeral, init_public, resp_public, shared, payload)
    assert b"".join(first) == ciphertext

    responder = noise.start(PROTOCOL_NAME, prologue, resp_public)
    assert noise.read_first_static(responder, resp_static, first[0], first[1]) == init_public
    assert noise.read_first_payload(responder, shared, first[2]) == payload

    payload, ciphertext = messages[1]
    second = noise.write_second(responder, resp_ephemeral, first[0], init_public, psk, payload)
    assert b"".join(second) == ciphertext
    assert (
        noise.read_second(initiator, init_ephemeral, init_static, second[0], psk, second[1])
        == payload
    )
    assert initiator.hash == responder.hash == bytes.fromhex(vector["handshake_hash"])

    keys = initiator.split()
    assert keys == responder.split()
    for number, (payload, ciphertext) in enumerate(messages[2:]):
        nonce = bytes(4) + (number // 2).to_bytes(8, "little")
        sealed = ChaCha20Poly1305(keys[number % 2]).encrypt(nonce, payload, b"")
        assert sealed == ciphertext


def test_x25519_agrees_with_wycheproof_and_refuses_zero_results():
    refused = 0
    for group in load_vectors("wycheproof/x25519_test.json")["testGroups"]:
        for test in group["tests"]:
            shared = bytes.fromhex(test["shared"])
            if not any(shared):
                with pytest.raises(NoiseError):
                    noise.dh(private(test["private"]), bytes.fromhex(test["public"]))
                refused += 1
            else:
                assert noise.dh(private(test["private"]), bytes.fromhex(test["public"])) == shared
    assert refused > 10


def test_low_order_points_have_no_shared_secret():
    own = X25519PrivateKey.generate()
    for point in load_vectors("low_order_points.json")["points"]:
        with pytest.raises(NoiseError):
            noise.dh(own, base64.b64decode(point))


def test_a_state_without_a_key_seals_nothing():
    state = SymmetricState(PROTOCOL_NAME)
    with pytest.raises(NoiseError, match="no key"):
        state.seal(b"secret")


def test_short_protocol_names_are_padded_instead_of_hashed():
    # Noise, section 5.2
    assert SymmetricState(b"short").hash == b"short" + bytes(27)


def test_a_copy_is_independent_and_wiping_zeroes():
    state = SymmetricState(PROTOCOL_NAME)
    state.mix_key(b"material")
    copy = state.copy()
    chain = state.chain
    key = state._key
    state.wipe()
    assert key is not None
    assert not any(chain)
    assert not any(key)
    assert any(copy.chain)
    sealed = copy.copy().seal(b"text")
    assert copy.open(sealed) == b"text"


def test_mixing_wipes_the_key_before():
    state = SymmetricState(PROTOCOL_NAME)
    state.mix_key(b"one")
    before = state.chain, state._key
    state.mix_key(b"two")
    assert before[1] is not None
    assert not any(before[0])
    assert not any(before[1])
