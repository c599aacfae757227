"""Encrypted tables and files as PyTorch's data sets; states as plain data and back."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from strongroom.errors import EnvelopeError, UsageError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = pytest.mark.torch

from torch.utils.data import DataLoader  # noqa: E402

from strongroom.workload.torch.datasets import open_dataset  # noqa: E402
from strongroom.workload.torch.tensors import (  # noqa: E402
    holds_weights,
    put_together,
    read_weights,
    take_apart,
    write_weights,
)


def table(rows: int) -> pa.Table:
    flat = pa.array(np.arange(rows * 3, dtype="float32"))
    return pa.table(
        {
            "number": pa.array(range(rows), pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, 3),
            "flag": [row % 2 == 0 for row in range(rows)],
            "text": [f"row {row}" for row in range(rows)],
        }
    )


@pytest.fixture(params=[2, 40], ids=["few row groups", "many row groups"])
def stored(request, tmp_path):
    pq.write_table(table(1000), tmp_path / "t.parquet", row_group_size=1000 // request.param)
    return ds.dataset(tmp_path / "t.parquet")


def numbers(stream) -> list[int]:
    return [int(one) for batch in DataLoader(stream, batch_size=None) for one in batch["number"]]


def test_a_table_is_tensors_of_its_columns():
    whole = open_dataset(ds.dataset(table(10)), rank=0, size=1)
    assert len(whole) == 10
    assert whole[3]["vector"].tolist() == [9, 10, 11]
    assert whole[3]["text"] == "row 3"
    (batch,) = DataLoader(whole, batch_size=10)
    assert batch["vector"].shape == (10, 3)
    assert batch["flag"].dtype == torch.bool
    assert batch["number"].tolist() == list(range(10))


def test_numbers_are_not_copied():
    plain = table(10).select(["vector", "number"])
    column = open_dataset(ds.InMemoryDataset(plain), rank=0, size=1).tensors["number"]
    assert column.data_ptr() == plain["number"].chunk(0).buffers()[1].address


def test_every_row_goes_to_one_rank_in_each_epoch_and_all_ranks_have_as_many_batches(stored):
    streams = [
        open_dataset(stored, rank=rank, size=3, stream=True, batch_size=10, shuffle=True, seed=5, columns=["number"])
        for rank in range(3)
    ]
    orders = []
    for epoch in range(2):
        for stream in streams:
            stream.set_epoch(epoch)
        parts = [numbers(stream) for stream in streams]
        assert {len(part) for part in parts} == {10 * len(streams[0])}
        together = [one for part in parts for one in part]
        assert len(together) == len(set(together)) >= 900
        orders.append(parts)
    assert orders[0] != orders[1]
    streams[0].set_epoch(0)
    assert numbers(streams[0]) == orders[0][0]  # the same seed and epoch, the same order


def test_without_shuffling_a_stream_is_in_the_order_of_the_table(stored):
    stream = open_dataset(stored, rank=0, size=1, stream=True, batch_size=100)
    assert numbers(stream) == list(range(1000))
    assert numbers(stream)[:5] == [0, 1, 2, 3, 4]
    for batch in stream:  # whoever stops early leaves nothing behind
        assert batch["vector"].shape == (100, 3)
        break


def test_what_goes_wrong_while_reading_ahead_is_raised_where_the_batch_is_asked_for(stored):
    stream = open_dataset(stored, rank=0, size=1, stream=True, columns=["missing"])
    with pytest.raises(Exception, match="missing"):
        numbers(stream)


@pytest.mark.parametrize(
    ("column", "message"), [([1, None], "1 empty values"), ([[1], [1, 2]], "lists of several lengths")]
)
def test_columns_that_no_tensor_can_hold_are_named(column, message):
    with pytest.raises(UsageError, match=f"column 'x' has {message}"):
        open_dataset(ds.dataset(pa.table({"x": column})), rank=0, size=1)


def test_files_are_decoded_as_they_are_asked_for():
    class Files(dict):
        def __getitem__(self, name):
            return io.BytesIO(super().__getitem__(name))

    files = Files({"b.txt": b"two", "a.txt": b"one", "c.txt": b""})
    raw = open_dataset(files, rank=0, size=1)
    assert [bytes(one["bytes"].numpy()) for one in raw] == [b"one", b"two", b""]
    assert raw[0]["name"] == "a.txt"
    del files["c.txt"]
    decoded = open_dataset(files, rank=0, size=1, decode=lambda name, stream: (name, stream.read().decode()))
    assert [decoded[index] for index in range(len(decoded))] == [("a.txt", "one"), ("b.txt", "two")]
    with pytest.raises(UsageError, match="no columns"):
        open_dataset(files, rank=0, size=1, columns=["x"])


def test_states_come_back_as_they_were():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "rest": [None, (1.5, "x")]}
    text, tensors = take_apart(state)
    found = put_together(text, tensors)
    assert found["epoch"] == 3
    assert found["rest"] == [None, (1.5, "x")]
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in found["model"].items())
    again = torch.optim.Adam(model.parameters(), lr=0.5)
    again.load_state_dict(found["optimizer"])
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_states_hold_no_objects_and_foreign_texts_are_no_states():
    with pytest.raises(UsageError, match="got Linear"):
        take_apart({"model": torch.nn.Linear(1, 1)})
    for text in ("{}", "[", '{"tensor": "t9"}', '{"call": "os.system"}'):
        with pytest.raises(EnvelopeError, match="not a state"):
            put_together(text, {})


def test_weights_are_safetensors_also_of_a_wrapped_model_and_shared_tensors(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(3, 3, bias=False)
            self.b = torch.nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    model = Tied()
    assert holds_weights(model)
    assert holds_weights(model.state_dict())
    assert not holds_weights({"x": b"bytes"})
    write_weights(model, tmp_path)
    found = read_weights({"model.safetensors": io.BytesIO((tmp_path / "model.safetensors").read_bytes())})
    assert set(found) == {"a.weight", "b.weight"}
    assert torch.equal(found["b.weight"], model.a.weight)
    with pytest.raises(UsageError, match=r"no \.safetensors"):
        read_weights({"x.json": io.BytesIO(b"{}")})
