"""Released keys open as the answer to one request of one session, under the terms it named, and as nothing else."""

import copy
import pickle

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from strongroom.broker.seals import ReleaseSeal, ReleaseSealError, release_terms, request_mac
from strongroom.digests import frame

SECRET, SESSION = bytes(range(32)), b"s" * 16
JOB, POLICY = b"j" * 48, "sha256:" + "0" * 64


def terms(**changes):
    named = {"job_digest": JOB, "datasets": [("flights", 1, "sha256:a")], "policy_digest": POLICY}
    return release_terms(**(named | changes))


def seal(secret=SECRET, session=SESSION):
    return ReleaseSeal(secret, session=session)


def test_holder_of_the_secret_opens_the_answer_to_its_request():
    sealed = seal().seal(b"keys", counter=7, terms=terms())
    assert seal().open(sealed, counter=7, terms=terms()) == b"keys"


@pytest.mark.parametrize(
    ("opener", "counter", "named"),
    [
        (seal(), 8, terms()),
        (seal(session=b"t" * 16), 7, terms()),
        (seal(secret=bytes(32)), 7, terms()),
        (seal(), 7, terms(job_digest=b"k" * 48)),
        (seal(), 7, terms(datasets=[("flights", 2, "sha256:a")])),
        (seal(), 7, terms(datasets=[("flights", 1, "sha256:b")])),
        (seal(), 7, terms(datasets=[("weather", 1, "sha256:a")])),
        (seal(), 7, terms(datasets=[])),
        (seal(), 7, terms(policy_digest="sha256:" + "1" * 64)),
    ],
    ids=["counter", "session", "secret", "job", "version", "policy", "dataset", "fewer", "fusion"],
)
def test_answer_to_anything_else_does_not_open(opener, counter, named):
    sealed = seal().seal(b"keys", counter=7, terms=terms())
    with pytest.raises(ReleaseSealError, match="do not open"):
        opener.open(sealed, counter=counter, terms=named)


@given(st.binary(max_size=200))
def test_bytes_of_a_stranger_do_not_open(data):
    with pytest.raises(ReleaseSealError):
        seal().open(data, counter=1, terms=terms())


def test_no_counter_seals_twice_so_no_nonce_is_used_twice():
    sealing = seal()
    sealing.seal(b"a", counter=5, terms=terms())
    for counter in (5, 4, 0):
        with pytest.raises(ReleaseSealError, match="must seal nothing"):
            sealing.seal(b"b", counter=counter, terms=terms())
    sealing.seal(b"c", counter=6, terms=terms())


def test_key_of_the_seal_is_not_the_key_of_the_proof():
    """A proof is public to whoever reads the request, so it must say nothing about the sealing key."""
    proof = request_mac(SECRET, path="/v1/release", session=SESSION, counter=1, body=b"")
    sealed = seal().seal(b"keys", counter=1, terms=terms())
    for guess in (SECRET, proof):
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        with pytest.raises(InvalidTag):
            AESGCM(guess).decrypt((1).to_bytes(12, "big"), sealed, seal()._bind(1, terms()))


def test_seal_does_not_print_pickle_or_copy():
    assert repr(seal()) == "ReleaseSeal()"
    for move in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            move(seal())


def test_secret_of_another_length_is_refused():
    with pytest.raises(ReleaseSealError, match="32 bytes, got 31"):
        seal(secret=bytes(31))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_release_key_is_the_one_that_hkdf_expands(secret, session):
    info = frame(b"strongroom/release-key/v1", session)
    key = HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(secret)
    sealed = ReleaseSeal(secret, session=session).seal(b"keys", counter=7, terms=terms())
    bound = frame(b"strongroom/release/v2", session, b"7", terms())
    assert AESGCM(key).decrypt((7).to_bytes(12, "big"), sealed, bound) == b"keys"
