"""A program that an owner approved carelessly tries to carry data out in its answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.policy.document import Quota, ServingRules
from strongroom.serving.answers import AnswerRefusedError, limit_outputs, limit_pieces, round_scores

SECRET = 0.12345678901234567


def rules(*kinds, digits=3, top=None, tokens=4):
    quotas = (Quota(answers=1, seconds=1),)
    return ServingRules(callers=(), quotas=quotas, kinds=kinds, digits=digits, top=top, tokens=tokens)


def limited(outputs, *kinds, rows=2, labels=None, **more):
    return limit_outputs(outputs, rows=rows, rules=rules(*kinds, **more), labels=labels or {})


def refused(outputs, *kinds, **more):
    with pytest.raises(AnswerRefusedError) as caught:
        limited(outputs, *kinds, **more)
    return " ".join(caught.value.reasons)


def test_digits_beyond_those_permitted_do_not_leave():
    found = limited({"score": np.array([SECRET, 1 - SECRET])}, "scores")
    assert found["score"].tolist() == [0.123, 0.877]


def test_digits_before_the_point_are_digits_too():
    found = limited({"score": np.array([123456.789, -9876.5])}, "scores")
    assert found["score"].tolist() == [123000.0, -9880.0]


@given(st.floats(allow_nan=False, allow_infinity=False, width=64), st.integers(1, 15))
def test_no_score_has_more_digits_than_permitted(score, digits):
    (found,) = round_scores(np.array([score]), digits=digits).tolist()
    if found == 0:
        assert math.copysign(1, found) == 1
        return
    shown = f"{found:.{digits - 1}e}"
    assert float(shown) == pytest.approx(found, rel=1e-14)
    assert abs(found - round(found, digits)) <= 1e-14 * abs(found)


@pytest.mark.parametrize("hidden", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_does_not_leave(hidden):
    assert "not finite" in refused({"score": np.array([0.5, hidden])}, "scores")


def test_scores_do_not_pass_as_labels_nor_labels_as_scores():
    assert "holds scores, permitted are labels" in refused({"a": np.array([0.5, 0.25])}, "labels")
    assert "holds labels, permitted are scores" in refused({"a": np.array([1, 0])}, "scores")


def test_labels_come_from_the_list_that_the_owners_approved():
    labels = {"a": ["yes", "no"], "b": [0, 1]}
    found = limited({"a": np.array(["yes", "no"]), "b": np.array([1, 0])}, "labels", labels=labels)
    assert found["a"].tolist() == ["yes", "no"]
    assert found["b"].tolist() == [1, 0]
    assert "not in the program's LABELS" in refused({"a": np.array(["yes", "row 7"])}, "labels", labels=labels)
    assert "not in the program's LABELS" in refused({"b": np.array([1, 1 << 40])}, "labels", labels=labels)
    assert "no closed list" in refused({"c": np.array([1, 0])}, "labels", labels=labels)
    assert "no closed list" in refused({"c": np.array([1, 0])}, "labels", labels={"c": range(10**6)})


def test_rows_that_nobody_asked_for_do_not_leave():
    assert "one row for each of 2" in refused({"a": np.zeros(3)}, "scores")
    assert "one row for each of 2" in refused({"a": np.zeros((2, 2, 2))}, "scores")
    assert "several labels in one row" in refused({"a": np.zeros((2, 2), int)}, "labels", labels={"a": [0]})


def test_only_the_largest_scores_leave_where_the_owner_bounds_them():
    found = limited({"a": np.array([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])}, "scores", top=1)
    assert found["a"].tolist() == [[0.7], [0.6]]
    assert found["a_index"].tolist() == [[1], [0]]


def test_everything_else_has_no_way_out():
    assert "neither a label nor a score" in refused({"a": np.array([1j, 0])}, "scores", "labels")
    assert "no closed list" in refused({"a": np.array([b"rows", b"rows"], dtype=object)}, "scores", "labels")
    assert refused({}, "scores")
    assert refused([1, 2], "scores")


def test_text_is_bounded_piece_by_piece():
    assert list(limit_pieces(iter("abcdefgh"), rules=rules("text"))) == ["a", "b", "c", "d"]
    assert list(limit_pieces(iter("abcdefgh"), rules=rules("text"), most=2)) == ["a", "b"]
    with pytest.raises(AnswerRefusedError, match="may not leave"):
        list(limit_pieces(iter(["x" * 65]), rules=rules("text")))
    with pytest.raises(AnswerRefusedError):
        list(limit_pieces(iter("ab"), rules=rules("scores")))
