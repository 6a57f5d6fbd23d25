"""A small SigLIP-shaped vision tower for tests of a vision-language model: 64 px, 16 patches.

No CLIP or SigLIP can be had on the project's machines, so this one learns shapes and colours of
easy-VQA's training pictures (their labels follow from the training questions) and is saved as a
`SiglipVisionModel` with its image processor, as `vlm pretrain-projector` takes one. It has no class
token: llama.cpp puts CLIP's in the wrong place (its issue 25814), and answers would differ.

    python tests/bench/vision_tower.py DATA OUT [--epochs 40]
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from onecard.tasks.vlm import picture_rows

SIDE, PATCH = 64, 16
BATCH = 64


def labels(folder: Path) -> dict[Path, tuple[str, str]]:
    """Picture -> (shape, colour), from the questions whose answer names them."""
    names: dict[Path, dict[str, str]] = defaultdict(dict)
    for item in picture_rows.read(folder).items:
        if "what shape" in item.question or "what is the shape" in item.question.lower():
            names[item.images[0]]["shape"] = item.answer
        elif "color" in item.question and item.answer not in ("yes", "no"):
            names[item.images[0]]["color"] = item.answer
    return {p: (n["shape"], n["color"]) for p, n in names.items() if {"shape", "color"} <= {*n}}


def tower() -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=5,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    return SiglipVisionModel(config)


def processor() -> SiglipImageProcessor:
    return SiglipImageProcessor(size={"height": SIDE, "width": SIDE})


class Classifier(nn.Module):
    """Shape and colour from the patches that LLaVA reads: those of the last layer but one."""

    def __init__(self, net: SiglipVisionModel, n_shapes: int, n_colors: int) -> None:
        super().__init__()
        self.net = net
        self.shape = nn.Linear(net.config.hidden_size, n_shapes)
        self.color = nn.Linear(net.config.hidden_size, n_colors)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.net(pixels, output_hidden_states=True)
        patches = output.hidden_states[-2].mean(1)
        return self.shape(patches), self.color(patches)


def pixels_of(paths: list[Path], process: SiglipImageProcessor) -> torch.Tensor:
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return process(pictures, return_tensors="pt")["pixel_values"]


def train(data: Path, out: Path, epochs: int, seed: int = 0) -> dict[str, float]:
    """Accuracy on the test pictures; writes the tower to `out`."""
    torch.manual_seed(seed)
    start, process = time.monotonic(), processor()
    sets = {side: labels(data / side) for side in ("train", "test")}
    shapes, colors = (sorted({pair[i] for pair in sets["train"].values()}) for i in (0, 1))
    tensors = {}
    for side, pairs in sets.items():
        shape = torch.tensor([shapes.index(pair[0]) for pair in pairs.values()])
        color = torch.tensor([colors.index(pair[1]) for pair in pairs.values()])
        tensors[side] = (pixels_of([*pairs], process), shape, color)
    net = Classifier(tower(), len(shapes), len(colors))
    pixels, shape, color = tensors["train"]
    steps = epochs * (len(pixels) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    for epoch in range(epochs):
        net.train()
        for rows in torch.randperm(len(pixels)).split(BATCH):
            if len(rows) < BATCH:
                continue
            batch = pixels[rows]
            shift = torch.randint(-6, 7, (2,)).tolist()
            batch = torch.roll(batch, shift, (2, 3))
            one, other = net(batch)
            loss = nn.functional.cross_entropy(one, shape[rows])
            loss = loss + nn.functional.cross_entropy(other, color[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {float(loss):.3f}", flush=True)
    net.eval()
    with torch.no_grad():
        one, other = net(tensors["test"][0])
    right = (one.argmax(1) == tensors["test"][1]) & (other.argmax(1) == tensors["test"][2])
    net.net.save_pretrained(out)
    process.save_pretrained(out)
    return {
        "shape": float((one.argmax(1) == tensors["test"][1]).float().mean()),
        "color": float((other.argmax(1) == tensors["test"][2]).float().mean()),
        "both": float(right.float().mean()),
        "seconds": time.monotonic() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    print(train(options.data, options.out, options.epochs))


if __name__ == "__main__":
    main()
