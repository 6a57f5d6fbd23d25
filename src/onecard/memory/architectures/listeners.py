"""Speech models beside Whisper by name: an encoder over sound, and what writes the text: a head, a
small decoder or a language model.

Sources: transformers' classes (Parakeet, Canary, Moonshine, Wav2Vec2, Voxtral, GraniteSpeech,
Qwen3ASR) with their configs' defaults, counted by tests/e2e/test_pipelines.py; Qwen3-ASR's number
of weights as the hub counts it.
"""

from dataclasses import dataclass
from functools import cache

from onecard.errors import NotFound, nearest
from onecard.memory.architectures import layers, lm
from onecard.memory.architectures.layers import LM
from onecard.memory.architectures.model_names import tokens


@dataclass(frozen=True)
class Listener:
    """Width, layers, heads and feed-forward of the encoder."""

    params: int
    """Of all parts."""
    D: int
    L: int
    H: int
    F: int
    rate: float
    """Steps of the encoder for a second of sound."""
    mels: int = 0
    """Channels of the spectrum; 0 for one that hears samples."""
    words: str = ""
    """The language model that writes; empty for a head or a small decoder."""
    joined: int = 1
    """Steps of the encoder that become one token of the language model."""
    decoder: int = 0
    """Layers of a small decoder with attention to the encoder."""
    scores: bool = False
    """Makes score matrices: positions are relative."""


VOXTRAL_3B = "voxtral's"

TABLE = {
    "parakeet-ctc-0.6b": Listener(608_799_745, 1024, 24, 8, 4096, 12.5, 80, scores=True),
    "parakeet-ctc-1.1b": Listener(1_062_540_289, 1024, 42, 8, 4096, 12.5, 80, scores=True),
    "parakeet-tdt-0.6b": Listener(625_877_638, 1024, 24, 8, 4096, 12.5, 128, scores=True),
    "parakeet-tdt-1.1b": Listener(1_079_618_182, 1024, 42, 8, 4096, 12.5, 80, scores=True),
    "canary-1b-v2": Listener(962_155_520, 1024, 32, 8, 4096, 12.5, 128, decoder=8, scores=True),
    "canary-qwen-2.5b": Listener(
        810_984_448 + 1_720_574_976 + 2_099_200,
        1024,
        32,
        8,
        4096,
        12.5,
        128,
        "qwen3-1.7b",
        scores=True,
    ),
    "voxtral-mini-3b": Listener(4_676_271_104, 1280, 32, 20, 5120, 50.0, 128, VOXTRAL_3B, joined=4),
    "voxtral-small-24b": Listener(
        636_968_960 + 5120 * 5120 * 2 + 23_572_403_200,
        1280,
        32,
        20,
        5120,
        50.0,
        128,
        "mistral-small-3.1-24b",
        joined=4,
    ),
    "moonshine-tiny": Listener(27_092_736, 288, 6, 8, 1152, 41.6, decoder=6),
    "moonshine-base": Listener(61_513_920, 416, 8, 8, 1664, 41.6, decoder=8),
    "wav2vec2-base": Listener(94_396_320, 768, 12, 12, 3072, 50.0),
    "wav2vec2-large": Listener(315_471_520, 1024, 24, 16, 4096, 50.0),
    "granite-speech-3.3-2b": Listener(
        2_533_539_840 + 274_808_106 + 37_795_840,
        1024,
        10,
        8,
        4096,
        50.0,
        160,
        "granite-3.3-2b",
        joined=5,
        scores=True,
    ),
    "granite-speech-3.3-8b": Listener(
        8_170_864_640 + 274_808_106 + 39_895_040,
        1024,
        10,
        8,
        4096,
        50.0,
        160,
        "granite-3.3-8b",
        joined=5,
        scores=True,
    ),
    "qwen3-asr-0.6b": Listener(782_426_112, 896, 18, 14, 3584, 12.5, 128, "qwen3-0.6b"),
    "qwen3-asr-1.7b": Listener(2_038_052_480, 1024, 24, 16, 4096, 12.5, 128, "qwen3-1.7b"),
}
ALSO = {
    "parakeet-tdt-0.6b": "parakeet-tdt-0.6b-v2 parakeet-tdt-0.6b-v3 parakeet-0.6b parakeet",
    "parakeet-tdt-1.1b": "parakeet-1.1b",
    "voxtral-mini-3b": "voxtral-mini voxtral-3b",
    "voxtral-small-24b": "voxtral-small voxtral-24b",
    "moonshine-tiny": "moonshine-streaming-tiny",
    "wav2vec2-base": "wav2vec2-base-960h",
    "wav2vec2-large": "wav2vec2-large-960h wav2vec2-large-xlsr-53 wav2vec2-large-960h-lv60-self",
}
NOT_KNOWN = {
    "canary-1b": "no config of its 24 decoder layers is known here",
    "canary-180m-flash": "no config of its sizes is known here",
    "canary-1b-flash": "no config of its decoder is known here",
    "parakeet-rnnt-0.6b": "no config of its decoder is known here",
    "parakeet-rnnt-1.1b": "no config of its decoder is known here",
    "voxtral-mini-4b-realtime": "no config of its sizes is known here",
}
"""Models that exist and cannot be planned, with what is missing."""


@cache
def _index() -> dict[str, str]:
    every = {name: name for name in TABLE}
    for name, others in ALSO.items():
        every |= dict.fromkeys(others.split(), name)
    return {tokens(name): known for name, known in every.items()}


def named(name: str) -> tuple[str, Listener] | None:
    """By its whole name, in any spelling; None for another."""
    known = _index().get(tokens(name))
    return (known, TABLE[known]) if known else None


def refuse(name: str, others: list[str]) -> NotFound:
    """For a name that neither this table nor Whisper's has; `others` are Whisper's."""
    why = next((why for n, why in NOT_KNOWN.items() if tokens(n) == tokens(name)), "")
    known = {**_index(), **{tokens(other): other for other in others}}
    near = list(dict.fromkeys(known[n] for n in nearest(tokens(name), known)))
    return NotFound(
        f"there is no speech model named '{name}'",
        why=why or f"there are: {', '.join([*others, *TABLE])}",
        fix=f"did you mean {' or '.join(near)}?" if near else "onecard plan asr large-v3-turbo",
    )


def words_of(listener: Listener) -> LM | None:
    """The language model that writes."""
    if not listener.words:
        return None
    if listener.words == VOXTRAL_3B:  # VoxtralConfig's text_config
        return layers.uniform("voxtral-mini", 131_072, 3072, 8192, 30, 32, 8, 128)
    return lm.find(listener.words)
