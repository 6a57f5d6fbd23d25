"""vlm train with frozen weights in bf16: fp32 parts among 16-bit ones, in four families."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("peft", reason="installed by make test")
from PIL import Image  # noqa: E402

from onecard import api  # noqa: E402
from tests import made_vlms  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    draw, lines = np.random.default_rng(0), []
    for i in range(12):
        Image.fromarray(draw.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
        lines.append({"image": f"{i}.png", "question": "what?", "answer": f"blue {i}"})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", made_vlms.MAKERS)
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"vision_tower": "full", "gradient_checkpointing": True},
        {"vision_tower": "lora"},
        {"language_model": "full"},
    ],
)
def test_parts_of_two_widths_train_together(name, parts, rows, tmp_path):
    values = {
        "data": str(rows),
        "model": str(made_vlms.write(name, tmp_path / name)),
        "bf16": True,
        "max_steps": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "eval_items": 2,
        "max_new_tokens": 2,
        "controls": False,
        "output_dir": str(tmp_path / "out"),
        **parts,
    }
    data = api.run("vlm", "train", api.configure("vlm", "train", values=values), card="cpu").data
    assert data["files"]
