"""The vision half of a model for llama.cpp: a GGUF file of the architecture `clip`, by its header.

Sources: llama.cpp's tools/mtmd/clip.cpp and clip-impl.h. Knows no card.
"""

from dataclasses import dataclass
from pathlib import Path

from onecard.errors import DataError
from onecard.memory.architectures import gguf
from onecard.memory.architectures.vlm import Tower

MERGED = {"qwen2vl_merger": 2, "qwen2.5vl_merger": 2, "qwen3vl_merger": 2, "pixtral": 1}
"""Projectors that take images of any size, and the patches a side that become one token."""
MOST_TOKENS = 4096
"""Of an image of any size in llama.cpp (clip.cpp, set_limit_image_tokens)."""
MAX_SIDE = 1 << 14
AFTER = "onecard.image.after"
"""A key of ours: what stands between a picture and the text behind it in the prompts that the model
was trained on, as a line end in LLaVA's. llama.cpp puts nothing there."""
WIDTHS = {
    **dict.fromkeys(("mlp", "pixtral", "kimivl", "lightonocr"), ("mm.2.weight", 1)),
    **dict.fromkeys(MERGED, ("mm.2.bias", 0)),
    "pixtral": ("mm.2.weight", 1),
    "gemma3": ("mm.input_projection.weight", 0),
    "idefics3": ("mm.model.fc.weight", 1),
    "internvl": ("mm.model.mlp.3.weight", 1),
    "llama4": ("mm.model.fc.weight", 1),
}
"""Projector -> the tensor and its axis that are as wide as the language model's embeddings
(clip.cpp, clip_n_mmproj_embd)."""


@dataclass(frozen=True)
class Projector:
    """What a clip file says of itself."""

    kind: str
    tower: Tower
    side: int
    """Of the image that the tower takes, px."""
    merge: int
    bytes: int
    """Of all tensors."""
    hears: bool
    """It has an audio encoder, too."""

    @property
    def any_size(self) -> bool:
        return self.kind in MERGED

    def patches(self, width: int = 0, height: int = 0) -> int:
        """Of one image, or of one tile."""
        if not self.any_size or not width:
            return max((self.side // self.tower.patch) ** 2, 1)
        side = self.tower.patch * self.merge
        tokens = -(-width // side) * -(-(height or width) // side)
        return min(tokens, MOST_TOKENS) * self.merge**2

    def tokens(self, width: int = 0, height: int = 0) -> int:
        return self.patches(width, height) // self.merge**2


def read(path: Path) -> Projector:
    """Raises DataError for a file that is no GGUF of a vision tower, NotFound."""
    header = gguf.read_header(path)
    if header.architecture != "clip":
        raise DataError(
            f"{path} is no mmproj file",
            why=f"its architecture is '{header.architecture[:40]}', not clip",
            fix="--model with the language model's GGUF, --mmproj with the mmproj-*.gguf beside it",
        )
    return of_header(header, path)


def of_header(header: gguf.Header, path: Path) -> Projector:
    """Raises DataError for a header without the tower's counts."""
    size = sum(tensor.bytes for tensor in header.tensors)
    kind = str(
        header.keys.get("clip.vision.projector_type")
        or header.keys.get("clip.projector_type")
        or ""
    )
    hears = bool(header.keys.get("clip.has_audio_encoder"))
    try:
        tower = Tower(
            header.number("vision.embedding_length"),
            header.number("vision.block_count"),
            header.number("vision.attention.head_count"),
            header.number("vision.feed_forward_length"),
            header.number("vision.patch_size", 14),
            bool(header.keys.get("clip.use_silu")),
        )
        side = header.number("vision.image_size", 336)
        scale = header.number("vision.projector.scale_factor")
        merge = MERGED.get(kind) or header.number("vision.spatial_merge_size") or scale or 1
        if kind == "gemma3":
            merge = 4
    except ValueError as fault:
        raise _broken(path, str(fault)) from None
    if not (0 < tower.D <= MAX_SIDE and 0 < tower.H <= tower.D and 0 < tower.patch <= side):
        raise _broken(path, "it has no width, heads or patches of a vision tower")
    if side > MAX_SIDE or tower.L > 4096 or tower.F > 1 << 20 or merge > 64:
        raise _broken(path, f"{side} px, {tower.L} layers, feed-forward {tower.F}: no model is so")
    return Projector(kind, tower, side, merge, size, hears)


def check_pair(language: Path, vision: Path) -> Projector:
    """What the vision half says of itself, where it belongs to this language model.

    Raises DataError for a broken file, files that are exchanged, and halves of different widths;
    llama.cpp would end with an abort.
    """
    words = gguf.read_header(language)
    if words.architecture == "clip":
        raise DataError(
            f"{language} is the vision half of a model",
            why="its architecture is clip",
            fix="--model with the language model's GGUF, and this one as --mmproj",
        )
    half = read(vision)
    header = gguf.read_header(vision)
    if header.keys.get("clip.has_vision_encoder") is False:
        raise DataError(
            f"{vision} sees nothing",
            why="it has no vision encoder" + (", it is for sound only" if half.hears else ""),
            fix="the mmproj-*.gguf of a model that takes pictures",
        )
    name, axis = WIDTHS.get(half.kind, ("", 0))
    shape = next((tensor.shape for tensor in header.tensors if tensor.name == name), ())
    width = shape[axis] if len(shape) > axis else 0
    try:
        expected = words.number("embedding_length")
    except ValueError as fault:
        raise _broken(language, str(fault)) from None
    if width and expected and width != expected:
        raise DataError(
            f"{vision.name} is of another model than {language.name}",
            why=f"it gives {width:,} values for a token of a picture, the language model takes "
            f"{expected:,}",
            fix="the mmproj file from the repository of the language model's GGUF",
        )
    return half


def _broken(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} does not describe a vision tower",
        why=why,
        fix="convert it again: convert_hf_to_gguf.py --mmproj",
    )
