"""A program that an owner approved carelessly tries to carry data out in its answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.digests import parse_text
from strongroom.errors import StrongroomError, UsageError
from strongroom.policy.document import Quota, ServingRules
from strongroom.serving.answers import AnswerRefusedError, limit_outputs, limit_pieces, round_scores
from strongroom.serving.batching import Batcher
from strongroom.serving.declared import Declared, read_declared
from strongroom.serving.model import Loaded, Model

SECRET = 0.12345678901234567


def rules(*kinds, digits=3, top=None, tokens=4):
    quotas = (Quota(answers=1, seconds=1),)
    return ServingRules(callers=(), quotas=quotas, kinds=kinds, digits=digits, top=top, tokens=tokens)


def limited(outputs, *kinds, rows=2, labels=None, names=None, **more):
    names = frozenset(outputs) if names is None else frozenset(names)
    declared = Declared(labels=labels or {}, names=names)
    return limit_outputs(outputs, rows=rows, rules=rules(*kinds, **more), declared=declared)


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


@given(st.floats(-1e307, 1e307), st.integers(1, 15))
def test_no_score_has_more_digits_than_permitted(score, digits):
    (found,) = round_scores(np.array([score]), digits=digits).tolist()
    if found == 0:
        assert math.copysign(1, found) == 1
        return
    shown = f"{found:.{digits - 1}e}"
    assert float(shown) == pytest.approx(found, rel=1e-14)
    assert abs(found - round(found, digits)) <= 1e-14 * abs(found)


@pytest.mark.parametrize("hidden", [math.nan, math.inf, -math.inf, 1.7e308])
def test_what_is_no_number_does_not_leave(hidden):
    assert "not finite" in refused({"score": np.array([0.5, hidden])}, "scores", digits=1)


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


def test_scores_beyond_those_permitted_do_not_leave_under_several_names():
    row = np.array([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])
    told = refused({"a": row, "b": row, "c": row[:, 0]}, "scores", top=2)
    assert told == "the outputs together hold more scores in a row than the 2 permitted"
    assert limited({"a": row[:, 0], "b": row[:, 1]}, "scores", top=2)


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


def test_rows_do_not_leave_as_the_names_of_outputs():
    names = read_declared(b"def predict(model, inputs):\n    return {'score': 1, **dict(other=2)}").names
    assert limited({"score": np.zeros(2), "other": np.zeros(2)}, "scores", names=names)
    for hidden in ("row 17: 54 years", 17, NotThisName("score")):
        told = refused({hidden: np.zeros(2)}, "scores", names=names)
        assert told == "an output has a name that does not stand in the program"


def test_refusals_quote_nothing_that_the_program_computed():
    assert "5417" not in refused({"a": np.broadcast_to(np.zeros(1), (5417,))}, "scores")
    assert "54 years" not in refused({"a": np.zeros(2, dtype=[("54 years", int)])}, "scores")


def test_labels_that_are_computed_are_no_closed_list():
    for computed in (b"LABELS = {'a': open('rows').read()}", b"LABELS: dict = {'a': list(range(9))}"):
        with pytest.raises(UsageError, match="LABELS is computed, must be written out"):
            read_declared(computed)
    with pytest.raises(UsageError, match="OUTPUTS is computed"):
        read_declared(b"OUTPUTS = [describe(one) for one in rows]")
    with pytest.raises(UsageError, match="LABELS maps"):
        read_declared(b"LABELS = ['a']")
    assert read_declared(b"LABELS = {'a': [True, 'no']}").labels == {"a": [True, "no"]}


def test_descriptions_that_a_program_changes_while_it_runs_do_not_leave():
    source = b"OUTPUTS = [{'name': 'score'}]\nglobals()['LABELS'] = {'score': ['54 years']}\nOUTPUTS[0]['name'] = '54'"
    declared = read_declared(source)
    exec(compile(source, "program.py", "exec"), {})
    assert declared.outputs == ({"name": "score"},)
    assert declared.labels == {}


class NotThisName(str):
    """Says that it is equal to what it is not, and shorter than it is."""

    __slots__ = ()

    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash("yes")

    def __len__(self):
        return 1

    def __str__(self):
        return "row 17: 54 years"


def test_text_in_disguise_is_neither_a_label_nor_a_piece():
    hidden = np.array([NotThisName("row"), NotThisName("row")], dtype=object)
    assert "not in the program's LABELS" in refused({"a": hidden}, "labels", labels={"a": ["yes"]})
    with pytest.raises(AnswerRefusedError):
        list(limit_pieces(iter([NotThisName("x" * 1000)]), rules=rules("text")))


def model_of(*, predict=None, chat=None):
    """A model whose program is these functions, and its line; it answers in this process, unconfined."""
    line = Batcher(patience=0)
    model = Model(b"", rules=rules("scores", "text", tokens=8), writable=(), batcher=line)
    model._confined = lambda work: work()
    declared = Declared(names=frozenset({"score"}))
    model._loaded = Loaded(version="1", names="m@1", model=None, predict=predict, chat=chat, declared=declared)
    model.start()
    return model, line


def test_error_that_a_program_yields_instead_of_text_does_not_leave():
    def chat(_model, _messages, _settings):
        yield UsageError("row 17: 54 years " * 1000)

    model, _ = model_of(chat=chat)
    with pytest.raises(AnswerRefusedError) as caught:
        list(limit_pieces(model.chat(model.loaded, [], {}), rules=model.rules))
    assert "54 years" not in str(caught.value.reasons)
    model.close(UsageError("over"))


@pytest.mark.parametrize("returned", [{"score": [[1.0], [1.0, 2.0]]}, {"score": [{}]}, SystemExit(3)])
def test_request_that_breaks_the_program_leaves_it_to_answer_others(returned):
    def predict(_model, inputs):
        if inputs["x"][0]:
            if isinstance(returned, BaseException):
                raise returned
            return returned
        return {"score": inputs["x"]}

    model, line = model_of(predict=predict)
    with pytest.raises(StrongroomError):
        line.ask({"x": np.array([1.0])}, rows=1)
    outputs, _ = line.ask({"x": np.array([0.0])}, rows=1)
    assert outputs["score"].tolist() == [0.0]
    model.close(UsageError("over"))


def test_error_of_ours_that_a_program_provokes_does_not_carry_its_words_out():
    def predict(_model, _inputs):
        parse_text("row 17: 54 years")

    def chat(_model, _messages, _settings):
        yield parse_text("row 17: 54 years")

    with pytest.raises(StrongroomError, match="row 17"):
        parse_text("row 17: 54 years")
    model, line = model_of(predict=predict, chat=chat)
    for ask in (lambda: line.ask({"x": np.zeros(1)}, rows=1), lambda: list(model.chat(model.loaded, [], {}))):
        with pytest.raises(StrongroomError) as caught:
            ask()
        assert "row 17" not in f"{caught.value.message} {caught.value.hint}"
    model.close(UsageError("over"))


def test_answer_that_is_no_array_says_nothing_while_it_is_looked_at():
    class Talkative:
        def __array__(self, *_):
            raise AnswerRefusedError("no", reasons=("row 17: 54 years",))

    model, line = model_of(predict=lambda _model, _inputs: {"score": Talkative()})
    with pytest.raises(StrongroomError) as caught:
        line.ask({"x": np.zeros(1)}, rows=1)
    assert "row 17" not in f"{caught.value} {getattr(caught.value, 'reasons', '')}"
    model.close(UsageError("over"))
