"""What a LoRA file says of itself: sd-scripts' ss_* keys and Stability's modelspec.* keys
(https://github.com/Stability-AI/ModelSpec). Knows no weights."""

import json
from collections.abc import Mapping
from typing import Any

ARCHITECTURES = {
    "sd": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sd2-v": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
}
BASE_VERSIONS = {
    "sd": "sd_v1",
    "sd2": "sd_v2",
    "sd2-v": "sd_v2_v",
    "sdxl": "sdxl_base_v1-0",
}
"""ss_base_model_version, by which programs tell the bases apart."""
MAX_TRIGGERS = 10
MAX_CHARS = 200


def kind_of(family: str, text_width: int, prediction_type: str) -> str:
    """sd, sd2, sd2-v or sdxl. `text_width`: of the text that the UNet looks at; Stable Diffusion 2
    has 1024."""
    if family != "sd" or text_width != 1024:
        return family
    return "sd2-v" if prediction_type == "v_prediction" else "sd2"


def build(
    *,
    title: str,
    kind: str,
    rank: int,
    alpha: float,
    trigger: str = "",
    size: tuple[int, int] = (0, 0),
    prediction_type: str = "epsilon",
    base: str = "",
    tags: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    date: str = "",
) -> dict[str, str]:
    """The metadata of a LoRA. `kind`: see kind_of; `base`: the model it was trained on; `tags`: how
    often each word or caption stood in the data; `settings`: all of onecard's own."""
    velocity = prediction_type == "v_prediction"
    values: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": f"{alpha:g}",
        "ss_base_model_version": BASE_VERSIONS.get(kind, kind),
        "ss_v2": kind.startswith("sd2"),
        "ss_sd_model_name": base,
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES.get(kind, kind)}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }
    if size[0]:
        values["modelspec.resolution"] = f"{size[0]}x{size[1]}"
        values["ss_resolution"] = f"({size[0]}, {size[1]})"
    if date:
        values["modelspec.date"] = date
    if trigger:
        values["modelspec.trigger_phrase"] = trigger
        values["modelspec.usage_hint"] = f"Trigger word: {trigger}"
    if tags:
        values["ss_tag_frequency"] = json.dumps({"data": dict(tags)}, ensure_ascii=False)
    if settings:
        values["onecard"] = json.dumps(dict(settings), ensure_ascii=False, sort_keys=True)
    return {name: str(value) for name, value in values.items() if str(value)}


def triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The trigger phrase; where there is none, the words that every caption of the training had.

    >>> triggers({"ss_tag_frequency": '{"10_sks": {"sks dog": 10, "grass": 3}}'})
    ('sks dog',)
    """
    phrase = metadata.get("modelspec.trigger_phrase") or metadata.get("ss_trigger_words") or ""
    if phrase.strip():
        words = [word.strip() for word in phrase.split(",")]
        return tuple(word[:MAX_CHARS] for word in words if word)[:MAX_TRIGGERS]
    rows = _json(metadata.get("ss_tag_frequency", ""))
    out: list[str] = []
    for folder, tags in rows.items():
        if not isinstance(tags, dict) or not tags or not isinstance(folder, str):
            continue
        counts = {str(tag): n for tag, n in tags.items() if isinstance(n, int)}
        most = max(counts.values(), default=0)
        if most > 1 and len(counts) > 1 and min(counts.values()) < most:
            out += [tag.strip() for tag, n in counts.items() if n == most]
    return tuple(dict.fromkeys(tag[:MAX_CHARS] for tag in out if tag))[:MAX_TRIGGERS]


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def base_note(metadata: Mapping[str, str]) -> str:
    """'; its metadata name ... as its base', where they name one."""
    names = (
        metadata.get("ss_sd_model_name"),
        metadata.get("ss_base_model_version"),
        metadata.get("modelspec.architecture"),
    )
    shown = [name[:80] for name in names if name]
    return f"; its metadata name {', '.join(shown)} as its base" if shown else ""
