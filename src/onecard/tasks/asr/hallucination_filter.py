"""Words that nobody said: what Whisper writes over silence, noise and music, and how it is told
from speech. Pure arithmetic on a segment's facts."""

import re
from collections import Counter

from onecard.tasks.asr.words import Segment

PHANTOMS = re.compile(
    r"^\W*(thank(s| you)( so much| very much)?( for (watching|listening))?( everyone| all)?|please "
    r"(like and )?subscribe.*|subscribe|(see|i'll see) you (in the )?next "
    r"(time|video)|bye(-?bye)?|you|the end|"
    r"\[?(music|applause|laughter|silence|blank_audio)\]?|♪+|(subtitles|captions|transcri\w+|untertitel\w*|sous-titr\w+|legendas) "
    r".*(by|von|par|por|der|des|im auftrag).*|amara\.?org|www\.\S+|"
    r"vielen dank( fürs zuschauen)?|merci( d'avoir regardé cette vidéo)?|gracias( por ver( el "
    r"video)?)?|obrigad[oa]|ご視聴ありがとうございました|谢谢(观看|大家)?|字幕.*)\W*$",
    re.IGNORECASE,
)
"""Ends of videos that the model has read millions of times (Koenecke et al.

2024 count such sentences); said by nobody where no speech was found.
"""
MOST_WORDS_PER_S = 7.0
"""Fast speech has 5 words a second; more did not happen."""
LEAST_SPEECH = 0.35
"""Share of a phantom's time in which Silero hears a voice, below which it was not said."""


def judge(segment: Segment, speech_s: float, mean_probability: float) -> str:
    """Why these words were not said; empty where they were.

    `speech_s`: seconds of its time in which a voice was heard.
    """
    text = segment.text.strip()
    span = max(segment.end - segment.start, 1e-3)
    n_words = len(text.split())
    if not re.search(r"\w", text):
        return "no letters"
    if speech_s <= 0.05:
        return "nobody speaks there"
    if loops(text):
        return "it goes round in a circle"
    if PHANTOMS.match(text) and (
        speech_s / span < LEAST_SPEECH or mean_probability < 0.5 or segment.no_speech_prob > 0.6
    ):
        return "the end of a video, over no speech"
    if segment.no_speech_prob > 0.6 and segment.avg_logprob < -1.0:
        return "the model itself heard no speech"
    if n_words > 3 and n_words / max(speech_s, 0.1) > 2 * MOST_WORDS_PER_S:
        return f"{n_words} words in {speech_s:.1f} s of speech"
    if segment.avg_logprob < -1.5 and mean_probability < 0.35:
        return "the model guesses"
    return ""


def loops(text: str) -> bool:
    """A phrase said four times and more in a row, or making up most of a long text.

    >>> loops("no no no no no no no no"), loops("I said no, no, no to that."), loops("la la la la la la la la la la")
    (True, False, True)
    """
    words = re.findall(r"\w+", text.lower())
    for size in (1, 2, 3, 4, 5, 6):
        least = 7 if size == 1 else 4
        run = 1
        for i in range(size, len(words) - size + 1, size):
            run = run + 1 if words[i : i + size] == words[i - size : i] else 1
            if run >= least:
                return True
    if len(words) >= 30:
        triples = Counter(zip(words, words[1:], words[2:], strict=False))
        return triples.most_common(1)[0][1] * 3 > 0.5 * len(words)
    return False
