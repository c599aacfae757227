"""Canonical JSON is RFC 8785's, whichever encoder writes it."""

import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from strongroom.statements import canonical_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
@example({"b": '\x00\x1f\x7f"\\/\b\f\n\r\t', "a": [1, True, None], "": {}})
@example({"\ud7ff": 1, "\U00010000": 2, "\uffff": 3})
@example([0.0, -0.0, 1e21, 5e-324, 1.0])
@example("é")
def test_same_bytes_as_the_reference_encoder(value):
    assert canonical_json(value) == rfc8785.dumps(value)


def test_what_has_no_canonical_form_is_refused_alike():
    import pytest

    for value in (
        2**53,
        -(2**53),
        float("nan"),
        float("inf"),
        "\ud800",
        {1: 2},
        {"a": object()},
        b"bytes",
        {"\ud800": 1},
    ):
        with pytest.raises(Exception) as ours:
            canonical_json(value)
        with pytest.raises(type(ours.value)):
            rfc8785.dumps(value)
