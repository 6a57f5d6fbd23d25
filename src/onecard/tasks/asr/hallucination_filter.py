"""Finds hallucinations: words that Whisper writes over silence, noise and music. Pure arithmetic on
a segment's text, times and probabilities."""

import re

from onecard.tasks.asr.transcript import Segment

CLOSING_PHRASES = re.compile(
    r"^\W*(thank(s| you)( so much| very much)?( for (watching|listening))?( everyone| all)?|please "
    r"(like and )?subscribe.*|subscribe|(see|i'll see) you (in the )?next "
    r"(time|video)|bye(-?bye)?|you(\W+you)*|the end|"
    r"\[?(music|applause|laughter|silence|blank_audio)\]?|♪+|"
    r"(subtitles|captions|transcri\w+|untertitel\w*|sous-titr\w+|legendas) "
    r".*(by|von|par|por|der|des|im auftrag).*|amara\.?org|www\.\S+|"
    r"vielen dank( fürs zuschauen)?|merci( d'avoir regardé cette vidéo)?|gracias( por ver( el "
    r"video)?)?|obrigad[oa]|ご視聴ありがとうございました|谢谢(观看|大家)?|字幕.*)\W*$",
    re.IGNORECASE,
)
"""Closing phrases of videos, of which the training data had millions (Koenecke et al. 2024 count
them). Dropped where no speech was detected."""
MAX_WORDS_PER_S = 14.0
"""Of detected speech. Fast speech has 5; voice activity detection may miss a part of it."""
MIN_SPEECH_SHARE = 0.35
"""Of the time of a closing phrase, in which Silero must detect a voice."""
MIN_WORD_PROBABILITY = 0.5
"""Mean over the words of a closing phrase."""
NO_SPEECH_PROB = 0.6
"""Whisper's own threshold (Radford et al. 2022, section 4.5)."""


def reason_to_drop(segment: Segment, speech_s: float, mean_probability: float) -> str:
    """Why these words are a hallucination; empty where they are not.

    `speech_s`: seconds of the segment in which a voice was detected. `mean_probability`: of its
    words.
    """
    text = segment.text.strip()
    span = max(segment.end - segment.start, 1e-3)
    n_words = len(text.split())
    if not re.search(r"\w", text):
        return "no letters"
    if speech_s <= 0.05:
        return "no speech at that time"
    no_speech = segment.no_speech_prob > NO_SPEECH_PROB
    improbable = mean_probability < MIN_WORD_PROBABILITY
    if CLOSING_PHRASES.match(text) and (
        speech_s / span < MIN_SPEECH_SHARE or improbable or no_speech
    ):
        return "the closing phrase of a video, over no speech"
    if no_speech and segment.avg_logprob < -1.0:
        return "the model itself detects no speech"
    if n_words > 3 and n_words / max(speech_s, 0.1) > MAX_WORDS_PER_S:
        return f"{n_words} words in {speech_s:.1f} s of speech"
    if segment.avg_logprob < -1.5 and mean_probability < 0.35:
        return "low probability"
    return ""
