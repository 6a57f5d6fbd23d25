"""Answers of a vision model as a server gives them: one picture in, one JSON object out."""

import base64
import io
from collections.abc import Callable
from typing import Any

from onecard.datasets.images.sheets import colour_of
from onecard.inference import picture_outcomes, picture_writers
from onecard.inference.picture_outcomes import Answer, Rgb
from onecard.inference.picture_sessions import Predictor

Reply = Callable[[Rgb, float | None, int | None], dict[str, Any]]
"""(picture, confidence or the server's own, classes to tell or 5) -> row."""


def replier(predictor: Predictor, answer: Answer) -> Reply:
    """One picture at a time: a request's confidence holds while its picture is looked at."""
    usual, names = predictor.confidence, predictor.card.classes

    def reply(rgb_HWC: Rgb, confidence: float | None, top: int | None) -> dict[str, Any]:
        predictor.confidence = usual if confidence is None else confidence
        try:
            (outcome,) = answer([rgb_HWC])
        finally:
            predictor.confidence = usual
        row = picture_outcomes.to_row(outcome, names, top or 5, with_regions=False)
        if outcome.classes is not None:
            buffer = io.BytesIO()
            picture_writers.mask_image(outcome, names).save(buffer, "PNG", compress_level=3)
            row["mask_png"] = base64.b64encode(buffer.getvalue()).decode()
        return row

    return reply


def facts(predictor: Predictor, *, uses_confidence: bool) -> dict[str, Any]:
    """What /v1/classes tells. `uses_confidence`: whether a least score changes the answer."""
    card = predictor.card
    return {
        "task": card.task,
        "model": card.model,
        "run": card.run,
        "license": card.license,
        "input": {"height": card.height, "width": card.width, "resize": card.resize},
        "confidence": predictor.confidence,
        "uses_confidence": uses_confidence,
        "classes": [
            {"label": i, "name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour_of(i))}
            for i, name in enumerate(card.classes)
        ],
    }
