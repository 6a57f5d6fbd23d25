"""Synthetic voices: espeak-ng out of its package (espeakng-loader), anywhere; flite where Debian's
is installed. And conversations of two, with their reference turns."""

import ctypes
import shutil
import subprocess
import wave
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

LINES = [
    "Good morning, I wanted to ask you about the meeting on Thursday afternoon.",
    "Yes, of course, we have moved it to the large room on the second floor.",
    "That is fine with me, but does Peter know that the time has changed as well?",
    "I wrote to him yesterday, and he said that he would be there a little later.",
    "Then we should begin with the budget, because that part does not need him.",
    "I agree, and after that we can talk about the plan for the next three months.",
    "How long do you think that the whole thing will take this time?",
    "If nobody asks too many questions we will be done in an hour and a half.",
    "Wonderful, I have to catch the train at five and I would like to get some tea before.",
    "There is a good place opposite the station, they have the best cake in town.",
]
VOICES = {
    "rms": "flite",
    "slt": "flite",
    "awb": "flite",
    "kal16": "flite",
    "en-us+m3": "espeak-ng",
    "en-us+f3": "espeak-ng",
}
PAIRS = [("rms", "slt"), ("awb", "slt"), ("rms", "awb"), ("en-us+f3", "rms")]
"""A man and a woman twice, two men, a woman of another program and a man."""
ANYWHERE = ("en-us+m3", "en-us+f3")


def here() -> bool:
    return bool(shutil.which("flite"))


@cache
def espeak():
    """The library, ready to give sound back."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    assert (
        library.espeak_Initialize(1, 0, str(espeakng_loader.get_data_path()).encode(), 0) == 22_050
    )
    return library


def spoken(text: str, voice: str = "en-us", words_a_minute: int = 150) -> np.ndarray:
    """float32 at 16 kHz, by espeak-ng."""
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, n, _):
        if samples and n:
            pieces.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    library = espeak()
    library.espeak_SetSynthCallback(take)
    library.espeak_SetParameter(1, words_a_minute, 0)
    assert library.espeak_SetVoiceByName(voice.encode()) == 0, voice
    sent = text.encode() + b"\0"
    library.espeak_Synth(sent, len(sent), 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    return soxr.resample(np.concatenate(pieces).astype(np.float32) / 32768, 22_050, 16_000)


def write(path: Path, sound: np.ndarray, rate: int = 16_000) -> Path:
    """16-bit PCM; rows are channels."""
    rows = np.atleast_2d(sound)
    with wave.open(str(path), "wb") as file:
        file.setparams((rows.shape[0], 2, rate, 0, "NONE", ""))
        file.writeframes((np.clip(rows.T, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def say(text: str, voice: str, path: Path) -> np.ndarray:
    """float32 at 16 kHz."""
    if VOICES[voice] == "flite":
        subprocess.run(
            ["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True, capture_output=True
        )
        with wave.open(str(path)) as file:
            sound, rate = (
                np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768,
                file.getframerate(),
            )
        sound = soxr.resample(sound, rate, 16_000) if rate != 16_000 else sound
    else:
        sound = spoken(text, voice)
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    sound = sound[loud[0] : loud[-1]]
    return sound / np.abs(sound).max() * 0.5


def conversation(
    pair: tuple[str, str], folder: Path, gap_s: float = 0.6, seed: int = 0
) -> tuple[Path, Path]:
    """(sound, RTTM): ten lines in turn, with pauses of 0.3 to twice `gap_s`."""
    random = np.random.default_rng(seed)
    pieces, rows, at = [np.zeros(8000, np.float32)], [], 0.5
    name = f"{pair[0]}-{pair[1]}".replace("+", "_")
    for i, line in enumerate(LINES):
        sound = say(line, pair[i % 2], folder / "line.wav")
        rows.append(
            f"SPEAKER {name} 1 {at:.3f} {len(sound) / 16_000:.3f} <NA> <NA> {pair[i % 2]} <NA> "
            "<NA>\n"
        )
        pause = np.zeros(int(random.uniform(0.3, 2 * gap_s) * 16_000), np.float32)
        pieces += [sound, pause]
        at += (len(sound) + len(pause)) / 16_000
    whole = np.concatenate(pieces) + random.normal(0, 1e-4, sum(map(len, pieces))).astype(
        np.float32
    )
    write(folder / f"{name}.wav", whole)
    (folder / f"{name}.rttm").write_text("".join(rows))
    (folder / "line.wav").unlink(missing_ok=True)
    return folder / f"{name}.wav", folder / f"{name}.rttm"
