"""Tensors of the inference protocol are read whole or refused, in JSON and in binary."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.errors import UsageError
from strongroom.serving.tensors import BINARY_HEADER, datatype, encode_answer, parse_request, read_header_bytes


def body(*tensors, **more):
    return json.dumps({"inputs": list(tensors), **more}).encode()


def tensor(name="x", shape=(2, 2), kind="FP32", data=(1, 2, 3, 4), **more):
    return {"name": name, "shape": list(shape), "datatype": kind, "data": list(data), **more}


def test_flat_and_nested_data_are_the_same():
    flat = parse_request(body(tensor()))
    nested = parse_request(body(tensor(data=([1, 2], [3, 4]))))
    assert flat.rows == 2
    np.testing.assert_array_equal(flat.inputs["x"], nested.inputs["x"])
    assert flat.inputs["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "data"),
    [("BOOL", [True, False]), ("INT64", [1, -(2**62)]), ("UINT8", [0, 255]), ("FP16", [0.5, 1]), ("BYTES", ["é", ""])],
)
def test_every_kind_goes_through_binary_and_back(kind, data):
    plain = parse_request(body(tensor(shape=[2], kind=kind, data=data)))
    answer, head = encode_answer(
        dict(plain.inputs),
        parse_request(body(tensor(), parameters={"binary_data_output": True})),
        model="m",
        version="1",
    )
    described = json.loads(answer[:head])["outputs"]
    again, _ = json.dumps({"inputs": described}).encode(), None
    read = parse_request(again + answer[head:], header_bytes=len(again))
    assert read.inputs["x"].tolist() == plain.inputs["x"].tolist()
    assert datatype(read.inputs["x"]) == kind


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([], "1 to 64 inputs"),
        ([tensor(), tensor()], "stands there twice"),
        ([tensor(data=(1, 2, 3))], "its shape"),
        ([tensor(shape=(0, 2), data=())], "no shape"),
        ([tensor(shape=(True, 4))], "no shape"),
        ([tensor(kind="FP8")], "unknown datatype"),
        ([tensor(kind=["FP32"])], "unknown datatype"),
        ([tensor(data=("a", "b", "c", "d"))], "not FP32"),
        ([tensor(kind="UINT8", data=(1, 2, 3, 300))], "not UINT8"),
        ([tensor(kind="BYTES", data=(1, 2, 3, 4))], "not text"),
        ([tensor(), tensor("y", (4, 1))], "same number of rows"),
        ([tensor(parameters={"binary_data_size": 4})], "does not fit"),
        ([tensor(shape=(10**9, 10**9))], "its shape"),
        (["x"], "an input has a name"),
    ],
)
def test_what_is_wrong_is_said(tensors, says):
    with pytest.raises(UsageError, match=says):
        parse_request(body(*tensors))


@given(st.binary(max_size=200), st.none() | st.integers(0, 300))
def test_no_bytes_surprise_the_parser(data, head):
    with pytest.raises(UsageError):
        parse_request(data, header_bytes=head)


def test_an_output_that_there_is_not_is_refused():
    asked = parse_request(body(tensor(), outputs=[{"name": "z"}]))
    with pytest.raises(UsageError, match="has no output 'z'"):
        encode_answer({"y": np.zeros(2)}, asked, model="m", version="1")


@pytest.mark.parametrize("outputs", [["y"], [{"name": "y", "parameters": "x"}], [{"name": "y", "parameters": [1]}]])
def test_outputs_that_are_no_objects_are_refused(outputs):
    with pytest.raises(UsageError, match="an output that is asked for is an object"):
        parse_request(body(tensor(), outputs=outputs))


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "\u00b2", "1e3"])
def test_header_that_is_no_length_is_refused(length):
    with pytest.raises(UsageError, match="length of the JSON"):
        read_header_bytes({BINARY_HEADER: length})


@pytest.mark.parametrize(
    "asked",
    [
        {"tensors": [tensor(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16})]},
        {"tensors": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {"tensors": [tensor()], "parameters": {"classification": 3}},
    ],
)
def test_extensions_that_are_not_offered_are_refused_rather_than_left_out(asked):
    tensors = asked.pop("tensors")
    with pytest.raises(UsageError, match="is not offered"):
        parse_request(body(*tensors, **asked))


@pytest.mark.parametrize("parameters", [5, "classification", ["classification"], None])
def test_parameters_of_an_input_that_are_no_object_say_nothing(parameters):
    assert parse_request(body(tensor(parameters=parameters))).rows == 2
