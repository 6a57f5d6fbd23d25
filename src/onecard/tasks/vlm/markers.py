"""Markers of pictures in a user's turns: other tools' forms made one, their number compared with
the pictures."""

import re
from collections.abc import Sequence

from onecard.tasks.vlm.items import MARKER, Turn, without_markers

FOREIGN = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>"  # Qwen
    r"|<img>(?:<IMG_CONTEXT>)*</img>|<IMG_CONTEXT>"  # InternVL
    r"|<im_start><image><im_end>"  # LLaVA with use_im_start_end
    r"|<\|image_pad\|>|<start_of_image>|<image_soft_token>|<__media__>|<image_placeholder>"
    r"|<ImageHere>|<Image>|<IMAGE>|<\|image\|>|\[IMG\]"
)
"""Markers of models and of training tools, each one picture."""
NUMBERED = re.compile(r"<\|?[Ii]mage[ _]?(\d{1,3})\|?>")
"""<image 1>, <image_1>, <|image_1|>: MMMU and Phi."""


def unify(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], str]:
    """(turns with `<image>` for every other tool's marker, what was changed or "").

    Raises ValueError where markers are numbered out of order, or stand outside the user's turns.
    """
    note = ""
    numbers: list[int] = []
    unified = []
    for turn in turns:
        text = turn.text
        if turn.role == "user":
            text = FOREIGN.sub(MARKER, text)
            numbers += [int(match[1]) for match in NUMBERED.finditer(text)]
            text = NUMBERED.sub(MARKER, text)
        elif MARKER in text:
            raise ValueError(f"a marker {MARKER} stands in a turn of the {turn.role}")
        if text != turn.text:
            note = "markers of another form were read as <image>"
        unified.append(Turn(turn.role, text))
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        shown = ", ".join(map(str, numbers[:6]))
        raise ValueError(
            f"its markers are numbered {shown}: each picture once, in order, is needed"
        )
    if numbers and numbers[0] > 1:
        raise ValueError(f"its first marker has the number {numbers[0]}")
    return tuple(unified), note


def fit(turns: Sequence[Turn], n_pictures: int) -> tuple[tuple[Turn, ...], str]:
    """(turns with as many markers as pictures, what was mended or "").

    A picture without a marker is put before the first question; several only where there is one
    question, in their order. Raises ValueError for all other numbers.
    """
    n_markers = sum(turn.text.count(MARKER) for turn in turns)
    if n_markers == n_pictures:
        return tuple(turns), ""
    questions = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if n_markers or (n_pictures > 1 and len(questions) > 1) or not questions:
        raise ValueError(
            f"{n_markers} marker{'s' * (n_markers != 1)} {MARKER} and {n_pictures} "
            f"picture{'s' * (n_pictures != 1)}"
        )
    first = questions[0]
    text = "\n".join([*[MARKER] * n_pictures, without_markers(turns[first].text)])
    mended = (*turns[:first], Turn("user", text), *turns[first + 1 :])
    noun = "a picture" if n_pictures == 1 else "pictures"
    return mended, f"{noun} without a marker put before the question"
