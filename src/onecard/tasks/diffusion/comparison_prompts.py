"""Prompts by which checkpoints are compared: each with the trigger, and its twin without it."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from onecard.tasks.diffusion import captions

PLACES = (
    *("in the snow", "on a beach", "in a forest", "on a city street", "on green grass"),
    *("on a wooden table", "in front of a blue wall", "with a mountain in the background"),
)
"""Behind a subject; after DreamBooth's prompts (Ruiz et al. 2023)."""
THINGS = (
    *("a house", "a tree", "a car", "a boat", "a flower", "an apple", "a cat", "a bird"),
    *("a mountain", "a bridge", "a chair", "a clock", "a castle", "a train", "a fish", "a hat"),
)
"""What a style is tried on, and what stands beside a subject."""
PICTURE_WORDS = frozenset(
    [
        *("picture", "painting", "drawing", "photo", "photograph", "image", "illustration", "art"),
        *("artwork", "sketch", "portrait", "style", "icon", "watercolor", "watercolour", "render"),
    ]
)
"""A class named by one of them is a style; all others are subjects."""
MAX_PROMPTS = 16
LEAST_SEEDS = 2
"""Pictures of a prompt: variety needs two."""


@dataclass(frozen=True)
class TwinPrompt:
    text: str
    """With the trigger."""
    plain: str
    """The same without it: what the LoRA is to leave as it was."""


def twins(
    trigger: str,
    class_prompt: str,
    texts: Sequence[str],
    n: int,
    own: Sequence[str] = (),
) -> tuple[TwinPrompt, ...]:
    """`n` prompts at most. `texts`: captions of the training pictures; `own`: prompts of the user,
    of which those with the trigger come first, half of all at most."""
    trigger, class_prompt = trigger.strip(), class_prompt.strip()
    carrier = carrying_phrase(trigger, class_prompt, texts)
    chosen = [
        TwinPrompt(text, without(text, trigger))
        for text in own
        if trigger and captions.has_trigger(text, trigger)
    ][: n // 2]
    if is_style(carrier, class_prompt):
        usual = [_styled(thing, carrier, class_prompt, i) for i, thing in enumerate(THINGS)]
    else:
        placed = [TwinPrompt(f"{carrier} {place}", f"{class_prompt} {place}") for place in PLACES]
        beside = [TwinPrompt(f"{carrier} beside {thing}", thing) for thing in THINGS]
        # in turn, so that a few prompts are of both kinds
        usual = [each for pair in zip(placed, beside, strict=False) for each in pair]
    return tuple(dict.fromkeys([*chosen, *usual]))[:n]


def _styled(thing: str, carrier: str, class_prompt: str, i: int) -> TwinPrompt:
    """Every other twin is of the class, which is nearest to what was learned."""
    plain = f"{class_prompt} of {thing}" if class_prompt and i % 2 else thing
    return TwinPrompt(f"{thing}, {carrier}" if carrier else thing, plain)


def carrying_phrase(trigger: str, class_prompt: str, texts: Sequence[str]) -> str:
    """The words that call what was learned: the caption that most pictures share, else the class
    with the trigger in it, else the trigger.

    >>> carrying_phrase("sks", "a dog", ["a photo of sks dog"] * 5)
    'a photo of sks dog'
    >>> carrying_phrase("sks", "a dog", ["sks on grass", "sks in snow"])
    'a sks dog'
    """
    usable = [text for text in texts if not trigger or captions.has_trigger(text, trigger)]
    if usable:
        text, times = Counter(usable).most_common(1)[0]
        if times > 1 and times * 2 >= len(texts):
            return text
    if not trigger or not class_prompt or captions.has_trigger(class_prompt, trigger):
        return class_prompt if trigger and class_prompt else trigger
    article, _, rest = class_prompt.partition(" ")
    if rest and article.lower() in ("a", "an", "the"):
        return f"{article} {trigger} {rest}"
    return f"{trigger} {class_prompt}"


def is_style(carrier: str, class_prompt: str) -> bool:
    """
    >>> is_style("a picture in the style of sks", ""), is_style("a photo of sks dog", "a dog")
    (True, False)
    """
    last = (class_prompt.lower().split() or ["style"])[-1]
    return last in PICTURE_WORDS or "style" in carrier.lower().split()


def without(text: str, trigger: str) -> str:
    """A prompt without the trigger.

    >>> without("a sks dog, in snow", "sks"), without("a house, sks", "sks")
    ('a dog, in snow', 'a house')
    """
    plain = re.sub(re.escape(trigger), " ", text, flags=re.IGNORECASE)
    plain = re.sub(r"\s+([,.;])", r"\1", " ".join(plain.split()))
    return plain.strip(" ,;")


def shape(n: int) -> tuple[int, int]:
    """(prompts, pictures of each) for about `n` pictures: many prompts tell more than many
    pictures of one.

    >>> shape(64), shape(24), shape(4)
    ((16, 4), (12, 2), (2, 2))
    """
    prompts = max(2, min(MAX_PROMPTS, n // LEAST_SEEDS))
    return prompts, max(1, round(n / prompts))
