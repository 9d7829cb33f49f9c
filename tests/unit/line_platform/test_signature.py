"""The webhook signature against openssl's arithmetic in the standard library, and its bad variants."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_platform import signature
from line_platform.events import LAYOUTS, serialise

SECRETS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)


def test_known_vector() -> None:
    # RFC 4231, test case 2.
    expected = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    assert base64.b64decode(signature.sign("Jefe", b"what do ya want for nothing?")) == expected


@given(secret=SECRETS, body=st.binary())
def test_signs_the_bytes_as_they_are(secret: str, body: bytes) -> None:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    assert signature.sign(secret, body) == base64.b64encode(digest).decode()
    assert signature.verify(secret, body, signature.sign(secret, body))


@given(secret=SECRETS, body=st.binary(), change=st.integers(min_value=0), flip=st.integers(1, 255))
def test_one_changed_byte_breaks_it(secret: str, body: bytes, change: int, flip: int) -> None:
    changed = bytearray(body + b"x")
    changed[change % len(changed)] ^= flip
    assert not signature.verify(secret, bytes(changed), signature.sign(secret, body + b"x"))


@given(secret=SECRETS, body=st.binary())
@pytest.mark.parametrize("signing", ["wrong", "other-secret"])
def test_bad_signatures_are_well_formed_and_wrong(
    signing: signature.Signing, secret: str, body: bytes
) -> None:
    bad = signature.present(signing, secret, body)
    assert bad is not None
    assert len(base64.b64decode(bad, validate=True)) == 32
    assert not signature.verify(secret, body, bad)


def test_missing_signature() -> None:
    assert signature.present("missing", "secret", b"") is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
        max_leaves=20,
    )
)
def test_every_layout_is_the_same_json(value: object) -> None:
    body = {"events": [], "value": value}
    assert [json.loads(serialise(body, layout)) for layout in LAYOUTS] == [body, body]


def test_odd_layout_does_not_survive_a_round_trip() -> None:
    body = {"destination": "U", "events": [{"text": "照片 é"}]}
    odd = serialise(body, "odd")
    for ascii_only in (True, False):
        for separators in ((",", ":"), (", ", ": ")):
            assert json.dumps(json.loads(odd), ensure_ascii=ascii_only, separators=separators).encode() != odd
