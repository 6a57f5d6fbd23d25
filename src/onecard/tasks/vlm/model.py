"""A vision-language model of transformers with its processor, on the device and in the width that
were asked for. Knows no data and no training.

Letters at the end of a tensor's name: B rows, T tokens, D width.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as hf_logging

from onecard.errors import DataError, MissingExtra, NotFound, SettingsError
from onecard.hub import checkpoints
from onecard.reporting import Reporter
from onecard.runs import store
from onecard.tasks.vlm import parts, picture_limits, prompts
from onecard.tasks.vlm.engine import Picture
from onecard.tasks.vlm.items import MARKER, Turn
from onecard.tasks.vlm.model_names import repository_of
from onecard.training import quantization
from onecard.training.config import PrecisionConfig

WHOLE, ADAPTER = "model", "adapter"
"""Folders of a training: its whole weights, or the adapter of a base."""
BASE = "base.json"
"""In an adapter's folder: the model that it belongs to."""


@dataclass(frozen=True)
class Place:
    """Where a model lies."""

    folder: Path
    adapter: Path | None = None


@dataclass
class Vlm:
    name: str
    net: Any
    """A ...ForConditionalGeneration, or the PEFT model around it."""
    processor: Any
    device: torch.device
    place: Place
    widened: Callable[[], Any] | None = None
    """The same model with wide weights, to be written in place of one in 4 or 8 bits."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """A tokenizer of Rust refuses a second thread while one is in it."""

    @property
    def base(self) -> Any:
        """The model of transformers, adapters inside."""
        return self.net.get_base_model() if isinstance(self.net, PeftModel) else self.net

    @cached_property
    def marker(self) -> str:
        """What stands for a picture in the rendered text."""
        text = prompts.render(self.processor, (Turn("user", f"{MARKER}\nx"),), generation=False)
        token = str(self.processor.image_token)
        if token not in text:
            raise DataError(
                f"the chat template of {self.name} has no place for a picture",
                why=f"{text[:120]!r} does not hold {token}",
                fix="a folder with the chat template that the model was trained with",
            )
        return token

    def inputs(
        self,
        texts: Sequence[str],
        pictures: Sequence[Sequence[Picture]],
        *,
        padding_side: str = "left",
        **more: Any,
    ) -> dict[str, Any]:
        """Tensors of a batch (on the CPU). Raises DataError for pictures that the processor does
        not take."""
        nested = [[picture.rgb for picture in row] for row in pictures]
        try:
            with self._lock:
                return dict(
                    self.processor(
                        text=list(texts),
                        images=nested if any(nested) else None,
                        return_tensors="pt",
                        padding=True,
                        padding_side=padding_side,
                        add_special_tokens=not _begins(self.processor.tokenizer, texts),
                        **more,
                    )
                )
        except (ValueError, IndexError, TypeError, RuntimeError) as fault:
            sizes = ", ".join(f"{p.width}x{p.height}" for row in pictures for p in row)
            raise DataError(
                f"the processor of {self.name} does not take these pictures ({sizes[:120]})",
                why=str(fault).splitlines()[0][:200] if str(fault) else type(fault).__name__,
                fix="another picture: very flat or very narrow ones are refused by some models",
            ) from None

    def on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Without what the model does not take; pictures in the type of its weights."""
        dtype = next(p.dtype for p in self.base.parameters() if p.is_floating_point())
        moved = {}
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and name != "offset_mapping":
                kept = dtype if value.is_floating_point() else value.dtype
                moved[name] = value.to(self.device, kept)
        return moved

    def picture_tokens(self, picture: Picture) -> int:
        """Tokens that the processor makes of a picture, with those that separate its tiles."""
        marker = self.marker
        tokens = self.inputs([marker], [[picture]])["input_ids"].shape[1]
        without = len(self.processor.tokenizer("", add_special_tokens=True)["input_ids"])
        begins = _begins(self.processor.tokenizer, [marker])
        return int(tokens) - (0 if begins else without)


def _begins(tokenizer: Any, texts: Sequence[str]) -> bool:
    """Whether the template has written the token that a text begins with."""
    start = tokenizer.bos_token
    return bool(start) and any(text.startswith(start) for text in texts)


def find(name: str, reporter: Reporter) -> Place:
    """The folder of a name of the table, of the hub, of a run or of the disk; downloads what may be
    downloaded.

    Raises NotFound, DataError.
    """
    if name.startswith("run:"):
        return _of_run(name.removeprefix("run:"), reporter)
    path = Path(name).expanduser()
    if (path / "adapter_config.json").is_file():
        return _of_adapter(path, reporter)
    if path.is_dir():
        return Place(checkpoints.folder(name, reporter))
    try:
        return Place(checkpoints.folder(repository_of(name) or name, reporter))
    except NotFound as fault:
        raise NotFound(
            str(fault.what),
            why=fault.why,
            fix="go online once, or give --model FOLDER with a "
            "model's config.json, safetensors and processor files",
        ) from None


def _of_run(run_id: str, reporter: Reporter) -> Place:
    record = store.find(run_id)
    for out in store.output_folders(record):
        if place := of_training(out, reporter):
            return place
    raise NotFound(
        f"run {run_id} holds no vision-language model",
        why="neither model/ nor adapter/ is in its folder: the training did not end",
        fix="onecard runs list  shows the finished ones",
    )


def of_training(out: Path, reporter: Reporter) -> Place | None:
    """What a training wrote to its folder; None for a folder without one."""
    if (out / WHOLE / "config.json").is_file():
        return Place(out / WHOLE)
    if (out / ADAPTER / "adapter_config.json").is_file():
        return _of_adapter(out / ADAPTER, reporter)
    return None


def _of_adapter(adapter: Path, reporter: Reporter) -> Place:
    try:
        base = json.loads((adapter / BASE).read_text(encoding="utf-8"))
        folder = Path(str(base["folder"]))
        name = str(base["model"])
    except (OSError, ValueError, KeyError, TypeError):
        values = checkpoints.about(adapter) or json.loads(
            (adapter / "adapter_config.json").read_text(encoding="utf-8")
        )
        name = str(values.get("base_model_name_or_path") or "")
        folder = Path(name)
    if not folder.is_dir():
        folder = find(name, reporter).folder
    return Place(folder, adapter)


def load(
    name: str,
    precision: PrecisionConfig,
    *,
    dtype: torch.dtype,
    min_pixels: int = 0,
    max_pixels: int = 0,
    reporter: Reporter,
) -> Vlm:
    """Frozen, in `dtype` or with its language model in 4 or 8 bits.

    Raises NotFound, DataError for a model without vision, SettingsError, MissingExtra.
    """
    place = find(name, reporter)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    _require_vision(place.folder)
    net = _net(place.folder, precision, dtype, device)
    if place.adapter:
        net = with_adapter(net, place.adapter)
    processor = processor_of(place.folder)
    picture_limits.apply(processor, min_pixels, max_pixels, name)
    return Vlm(name, net.eval(), processor, device, place)


def _require_vision(folder: Path) -> None:
    values = checkpoints.about(folder)
    if values.get("vision_config") or values.get("vision_tower") or values.get("mm_vision_tower"):
        return
    family = str(values.get("model_type") or "unknown")
    raise DataError(
        f"{folder.name} is a model without vision",
        why=f"its config.json ({family}) has no vision_config",
        fix="--model qwen3-vl-4b, smolvlm2-2.2b ...; or join it with a vision tower: onecard vlm "
        "pretrain-projector",
    )


def _net(folder: Path, precision: PrecisionConfig, dtype: torch.dtype, device: torch.device) -> Any:
    options: dict[str, Any] = {"device_map": {"": 0}} if device.type == "cuda" else {}
    try:
        config = AutoConfig.from_pretrained(folder)
        if precision.load_in_4bit or precision.load_in_8bit:
            options["quantization_config"] = quantization.bits_config(
                precision, dtype, _wide_modules(config)
            )
        net: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **options
        )
    except ImportError as fault:
        raise MissingExtra(
            f"{folder.name} needs a package that is not installed",
            why=str(fault).strip().splitlines()[0][:200],
            fix="pip install 'onecard[vlm]'",
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as fault:
        raise DataError(
            f"{folder} cannot be opened",
            why=(str(fault).strip() or type(fault).__name__).splitlines()[0][:200],
            fix="the folder needs the config.json of a vision-language model that transformers "
            "knows and its safetensors; code from the hub is never run",
        ) from None
    quantization.disable_4bit_repacking(net)
    return net.requires_grad_(False)


def _wide_modules(config: Any) -> list[str]:
    """Full names of the vision half, the projector and the head, which stay in 16 bits: they are
    small, and what they lose every answer loses. transformers matches whole names only."""
    with torch.device("meta"):
        net = AutoModelForImageTextToText.from_config(config)
    head = net.get_output_embeddings()
    heads = [name for name, module in net.named_modules() if head is not None and module is head]
    return [parts.tower(net), *parts.projector(net), *heads]


def processor_of(folder: Path) -> Any:
    """Raises DataError, MissingExtra."""
    try:
        processor: Any = AutoProcessor.from_pretrained(folder)
    except ImportError as fault:
        raise MissingExtra(
            f"the processor of {folder.name} needs a package that is not installed",
            why=str(fault).strip().splitlines()[0][:200],
            fix="pip install 'onecard[vlm]'",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise DataError(
            f"{folder} has no processor that can be read",
            why=(str(fault).strip() or type(fault).__name__).splitlines()[0][:200],
            fix="copy preprocessor_config.json, tokenizer.json and chat_template.jinja into it",
        ) from None
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise DataError(
            f"{folder} has no processor for pictures and text",
            why=f"it is a {type(processor).__name__}",
            fix="copy the model's processor_config.json and preprocessor_config.json into it",
        )
    return processor


def with_adapter(net: Any, adapter: Path) -> PeftModel:
    """Raises DataError for a broken adapter, or one of another model."""
    try:
        loaded: PeftModel = PeftModel.from_pretrained(net, adapter)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as fault:
        raise DataError(
            f"{adapter} is no adapter of this model",
            why=(str(fault).strip() or type(fault).__name__).splitlines()[0][:200],
            fix="the adapter of a finished training, on the base that it was trained on",
        ) from None
    return loaded


def precision_of(quant: str) -> tuple[PrecisionConfig, torch.dtype | None]:
    """(bits, type of the rest or None for the device's own) of a --quant. Raises SettingsError."""
    name = quant.lower().replace("-dq", "")
    if name in ("nf4", "4bit", "int4"):
        return PrecisionConfig(load_in_4bit=True), None
    if name in ("int8", "8bit"):
        return PrecisionConfig(load_in_8bit=True), None
    wide = {"": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if name not in wide:
        raise SettingsError(
            f"quant '{quant}' cannot be loaded here",
            why="transformers loads bf16, fp16, fp32, int8 and nf4; GGUF files have types of "
            "their own",
            fix="--quant nf4, or --model FILE.gguf for llama.cpp",
        )
    return PrecisionConfig(), wide[name]


@contextmanager
def evaluating(net: Any) -> Iterator[None]:
    """Without gradients and dropout; the mode from before comes back."""
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(was_training)
