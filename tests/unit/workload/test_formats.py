"""Files leave only in formats that are plain data; everything else, and every pickle, is refused with its reason."""

import io
import json
import pickle
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.workload.formats import refuse_files


def judged(name, data, **more):
    files = {name: data, **more}
    return refuse_files({one: (lambda content=content: io.BytesIO(content)) for one, content in files.items()})


def safetensors(header):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 16


GOOD = {
    "weights.json": b'{"weights": [1.5, 2]}',
    "model.txt": b"tree\nversion=v4\nnum_class=1\n",
    "table.csv": "größe,n\n1,2\n".encode(),
    "model.ubj": b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner",
    "net.onnx": b"\x08\x08\x12\x07pytorch",
    "rows.parquet": b"PAR1....PAR1",
    "tensors.safetensors": safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
}


@pytest.mark.parametrize("name", GOOD)
def test_plain_data_passes(name):
    assert judged(name, GOOD[name]) == ()


class Attack:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("name", ["weights.json", "model.txt", "model.ubj", "net.onnx", "data", "notes.md"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_known_by_its_content_whatever_it_is_called(name, protocol):
    (reason,) = judged(name, pickle.dumps(Attack(), protocol=protocol))
    assert "is a pickle, which runs code" in reason


@pytest.mark.parametrize(
    "name", ["m.pkl", "m.PKL", "m.joblib", "m.pt", "m.npy", "m.pkl.json", "x/m.pickle", "m.py", "m.jar"]
)
def test_names_of_formats_that_run_code_are_refused_whatever_is_in_them(name):
    (reason,) = judged(name, b"{}")
    assert "runs code when it is loaded" in reason


def test_archives_and_compressed_files_are_refused_for_what_they_may_hide():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Attack()))
    assert "ZIP" in judged("model.onnx", packed.getvalue())[0]
    assert "gzip" in judged("model.txt", b"\x1f\x8b\x08\x00")[0]
    assert "Java objects" in judged("data", b"\xac\xed\x00\x05")[0]


def test_what_a_name_promises_is_held():
    assert "is not JSON" in judged("weights.json", b"{broken")[0]
    assert "not UTF-8 text" in judged("model.txt", b"\xff\xfe\x00")[0]
    assert "safetensors" in judged("w.safetensors", (1 << 60).to_bytes(8, "little"))[0]
    assert "safetensors" in judged("w.safetensors", safetensors({"w": {"dtype": "F32"}}))[0]
    assert ".ubj files begin" in judged("model.ubj", b"garbage")[0]
    assert "not known to be plain data" in judged("model.bin", b"\x00\x01")[0]


def test_files_of_a_spark_model_pass_beside_its_metadata_only():
    metadata = json.dumps({"class": "org.apache.spark.ml.PipelineModel", "sparkVersion": "4.3.0"}).encode()
    numbers = b"\x00\x00\x00\x02\x00\x00\x00\x03"
    assert judged("model/data", numbers, **{"model/metadata": metadata}) == ()
    assert len(judged("other/data", numbers, **{"model/metadata": metadata})) == 1
    evil = json.dumps({"class": "evil.Loader", "sparkVersion": "4.3.0"}).encode()
    assert len(judged("model/data", numbers, **{"model/metadata": evil})) == 2
    (reason,) = judged("model/data", pickle.dumps(Attack()), **{"model/metadata": metadata})
    assert "pickle" in reason


def test_every_file_has_its_reason():
    assert len(judged("a.pkl", b"", **{"b.bin": b"", "c.json": b"1"})) == 2


@given(st.binary(max_size=300), st.sampled_from([".json", ".txt", ".safetensors", ".ubj", ".onnx", "", ".bin", ".pkl"]))
def test_no_bytes_confuse_the_judge(data, suffix):
    reasons = judged(f"file{suffix}", data)
    assert len(reasons) <= 1
    if suffix in {"", ".bin", ".pkl"}:
        assert reasons
