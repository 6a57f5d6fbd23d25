"""Plans of a model that llama.cpp reads from two files: its language model and its vision half."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from onecard.errors import SettingsError
from onecard.hub import names
from onecard.inference.config import AUTO
from onecard.memory import quant_selection, terms
from onecard.memory.architectures import mmproj
from onecard.memory.architectures.layers import LM
from onecard.memory.architectures.mmproj import Projector
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference, vlm
from onecard.memory.plan import Plan, Term
from onecard.memory.quant_selection import gguf_format
from onecard.reporting import Reporter
from onecard.tasks.vlm import gguf_pairs, planned_pictures
from onecard.tasks.vlm.configs import ASSUMED_TEXT, AnswerModelConfig, PlanConfig, ServeConfig


def what_if(config: PlanConfig, device: Device, band: float) -> Plan:
    """The language model's GGUF with the vision half's file beside it."""
    vision = Path(config.mmproj).expanduser() if config.mmproj else _beside(config.model)
    if vision is None:
        raise SettingsError(
            "no file of the vision half is named",
            why="llama.cpp reads a model that sees from two files: its language model and mmproj",
            fix="--mmproj mmproj-FILE.gguf, from the repository of the language model's GGUF",
        )
    if not config.model.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="--model FILE.gguf beside --mmproj",
        )
    words = names.counts(config.model)
    half = mmproj.read(vision)
    one = half.tokens(config.imgsz, config.height)
    image_tokens = one * config.num_images
    quant = gguf_format(words, config.quant)
    n_ctx = config.n_ctx or image_tokens + config.text_tokens + config.max_new_tokens
    parts = llm_inference.llamacpp(
        words,
        quant,
        n_ctx * config.batch_size,
        k_type=config.kv_type,
        n_ubatch=config.n_ubatch,
        n_parallel=config.batch_size,
        build=llm_inference.build_of(0, config.flash_attn),
        device=device.type,
    )
    parts += vlm.projector(half, config.imgsz, config.height, config.flash_attn)
    choices = {"model": words.name, "tokens of a picture": one, "n_ctx": n_ctx}
    notes = (f"the same in llama.cpp: llama-server -m FILE --mmproj {vision} -c {n_ctx}",)
    return Plan((*parts, *terms.cuda_context(device)), device, choices, notes, band)


def answering(config: AnswerModelConfig, device: Device, band: float) -> Plan:
    """As the embedded llama.cpp loads the pair: whole on the card, or as many layers as fit beside
    the vision half. A model that is not here yet is told so."""
    language, vision = _files(config)
    counts = names.find_counts(config.model) if config.model != AUTO else None
    if language:
        counts = names.find(str(language)).counts() or counts
    if counts is None:
        note = "the size of the model is known once its file is here"
        return Plan((), device, {"model": config.model}, (note,), band)
    half = mmproj.read(vision) if vision else None
    sizes = planned_pictures.sizes_of(config)
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    sight = [_limited(half, config, *size) for size in sizes] if half else []
    parts, layers = _placed(config, counts, half, device, (width, height))
    notes = [*_table(half, config, sum(term.bytes for term in parts), (width, height))]
    tokens = sum(half.tokens(*size) for size in sight) if half else 0
    prompt = tokens + ASSUMED_TEXT
    if prompt + config.max_tokens > config.n_ctx:
        notes.append(
            f"{tokens:,} tokens of pictures, {ASSUMED_TEXT} of text and {config.max_tokens:,} of "
            f"the answer are more than n_ctx {config.n_ctx:,}: --n_ctx {prompt + config.max_tokens}"
        )
    if half is None:
        notes.append("no mmproj file is beside it: it reads text only")
    choices: dict[str, Any] = {
        "model": counts.name,
        "n_gpu_layers": layers,
        "pictures": len(sizes),
        "tokens of the pictures": tokens,
    }
    return Plan(tuple(parts), device, choices, tuple(notes), band)


def _files(config: AnswerModelConfig) -> tuple[Path | None, Path | None]:
    """(language model, vision half) that lie here; nothing is downloaded. Raises DataError,
    NotFound for a named file that is not there."""
    if config.model == AUTO:
        return None, Path(config.mmproj).expanduser() if config.mmproj else None
    model = names.find(config.model, config.quant)
    if not model.here or model.path is None:
        return None, Path(config.mmproj).expanduser() if config.mmproj else None
    if not config.mmproj and model.source == "hub" and _beside(str(model.path)) is None:
        return model.path, None  # its vision half is downloaded when it is asked
    pair = gguf_pairs.find(config, Reporter())
    return pair.language, pair.vision


def _beside(model: str) -> Path | None:
    """The first mmproj file in the folder of a model's file."""
    path = names.local_path(model) if model.strip() else None
    if path is None:
        return None
    folder = path if path.is_dir() else path.parent
    return next(
        (file for file in sorted(folder.glob("*.gguf")) if "mmproj" in file.name.lower()), None
    )


def _limited(
    half: Projector, config: AnswerModelConfig, width: int, height: int
) -> tuple[int, int]:
    """The size that max_pixels leaves of a picture, for a vision half that takes any."""
    area = width * height
    if not half.any_size or not config.max_pixels or area <= config.max_pixels:
        return width, height
    share = (config.max_pixels / area) ** 0.5
    return max(int(width * share), 1), max(int(height * share), 1)


def _placed(
    config: AnswerModelConfig,
    lm: LM,
    half: Projector | None,
    device: Device,
    size: tuple[int, int],
) -> tuple[list[Term], int]:
    """(terms, layers on the card)."""
    eyes = vlm.projector(half, *_limited(half, config, *size), True) if half else []
    quant = "" if lm.file else quant_selection.WANTED
    n_parallel = config.n_parallel if isinstance(config, ServeConfig) else 1
    n_ctx = config.n_ctx * n_parallel
    how: dict[str, Any] = {
        "k_type": config.kv_type,
        "n_ubatch": config.n_ubatch,
        "n_parallel": n_parallel,
    }
    if device.type == "cpu":
        return [*llm_inference.llamacpp(lm, quant, n_ctx, device="cpu", **how), *eyes], 0
    taken = sum(term.bytes for term in eyes)
    rest = replace(device, free_bytes=max(device.free_bytes - taken, 0))
    layers = quant_selection.layers_on_card(lm, quant, n_ctx, config.kv_type, config.n_ubatch, rest)
    if config.n_gpu_layers >= 0:
        layers = min(config.n_gpu_layers, lm.L + 1)
    place = llm_inference.Placement(layers)
    parts = llm_inference.llamacpp(lm, quant, n_ctx, place=place, **how)
    return [*parts, *eyes, *terms.cuda_context(device)], layers


def _table(
    half: Projector | None, config: AnswerModelConfig, total: int, size: tuple[int, int]
) -> list[str]:
    """Memory by picture size, for a vision half that takes any."""
    if half is None or not half.any_size:
        return []
    now = sum(term.bytes for term in vlm.projector(half, *_limited(half, config, *size), True))
    rows = []
    for side in planned_pictures.SIDES:
        limited = _limited(half, config, side, side)
        eyes = sum(term.bytes for term in vlm.projector(half, *limited, True))
        rows.append((side, half.tokens(*limited), total - now + eyes))
    return [planned_pictures.line("picture", rows)]
