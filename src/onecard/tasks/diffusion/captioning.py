"""Captions from a model of transformers that looks at pictures: BLIP, GIT, Florence-2, or one that
is asked in a chat."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from onecard.datasets.images import decode
from onecard.errors import DataError, NotFound
from onecard.hub import checkpoints
from onecard.reporting import Reporter
from onecard.tasks.diffusion.captions import Describe, Named

MAX_NEW_TOKENS = 40
BATCH = 4
QUESTION = "Describe this picture in one short sentence."
TASK_WORDS = {"florence2": "<CAPTION>"}
"""Model type -> the prompt that asks for a caption."""


def describer(name: str, reporter: Reporter) -> Describe:
    """What captions pictures with the model of this name; it is loaded when it is first used.

    Raises NotFound, DataError then.
    """

    def describe(pictures: Named) -> Mapping[str, str]:
        return _describe(name, pictures, reporter)

    return describe


def _describe(name: str, pictures: Named, reporter: Reporter) -> dict[str, str]:
    try:
        folder = checkpoints.folder(name, reporter)
    except NotFound as fault:
        fix = "--caption_model with the folder of a captioning model, or --caption_source template"
        raise NotFound(fault.what, why=fault.why, fix=fix) from None
    checkpoints.quiet()
    transformers_logging.disable_progress_bar()
    try:
        kind = str(AutoConfig.from_pretrained(folder).model_type)
        processor: Any = AutoProcessor.from_pretrained(folder)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    except (ValueError, KeyError, OSError, ImportError) as fault:
        raise DataError(
            f"{name} cannot caption pictures",
            why=str(fault).splitlines()[0][:200],
            fix="a model of transformers that makes text from pictures, as "
            "Salesforce/blip-image-captioning-base",
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    texts: dict[str, str] = {}
    with reporter.progress("pictures captioned", len(pictures)) as progress:
        for start in range(0, len(pictures), BATCH):
            batch = _readable(pictures[start : start + BATCH])
            if batch:
                answers = _answers(processor, model, kind, [image for _, image in batch])
                names = [each for each, _ in batch]
                texts |= zip(names, answers, strict=True)
            progress.step(min(BATCH, len(pictures) - start))
    return texts


def _readable(pictures: Named) -> list[tuple[str, Image.Image]]:
    """A picture that vanished meanwhile gets no caption."""
    images = []
    for name, path in pictures:
        try:
            images.append((name, Image.fromarray(decode.read_rgb(path))))
        except (NotFound, DataError):
            continue
    return images


@torch.no_grad()
def _answers(processor: Any, model: Any, kind: str, images: Sequence[Image.Image]) -> list[str]:
    """Greedy, so that the same pictures get the same captions."""
    words: dict[str, Any] = {}
    if kind in TASK_WORDS:
        words["text"] = [TASK_WORDS[kind]] * len(images)
    elif getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        chat = [{"role": "user", "content": content}]
        words["text"] = [processor.apply_chat_template(chat, add_generation_prompt=True)] * len(
            images
        )
        words["padding"] = True
    inputs = processor(images=list(images), return_tensors="pt", **words).to(model.device)
    ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    if "text" in words and not getattr(model.config, "is_encoder_decoder", False):
        ids = ids[:, inputs["input_ids"].shape[1] :]
    texts: list[str] = processor.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts]
