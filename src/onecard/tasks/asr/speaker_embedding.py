"""Speech to a vector of 256 numbers that is similar for one voice: the GE2E encoder of Resemblyzer
(Wan et al. 2018; weights Apache-2.0). Knows no clustering.

The network is rebuilt here; only the weights come from its package, which is unpacked into the
cache and not installed: it would need a compiler and an old setuptools for parts that are not used.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from torch import nn

from onecard.errors import DataError
from onecard.hub import packages
from onecard.reporting import Reporter
from onecard.tasks.asr.audio import RATE_HZ

PACKAGE = ("Resemblyzer", "0.1.4")
N_FFT, HOP, MELS = 400, 160, 40
"""Windows of 25 ms every 10 ms, 40 mel bands: what it was trained on."""
WINDOW = 160
"""Frames of a partial: 1.6 s."""
STEP = 77
"""Frames between partials: 1.3 a second."""
LEVEL_DBFS = -30.0


class SpeakerEncoder(nn.Module):
    """Three LSTM layers over mel frames; the last hidden state, projected, is the embedding."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        self.load_state_dict(
            {name: value for name, value in state.items() if name.startswith(("lstm", "linear"))}
        )
        self.eval()

    @torch.inference_mode()
    def embed(self, sound: np.ndarray) -> np.ndarray:
        """(256), unit length: the mean over partials of 1.6 s. `sound`: float32, 16 kHz."""
        frames = mel(normalize_volume(sound))
        if len(frames) < WINDOW:
            padding = ((0, WINDOW - len(frames)), (0, 0))
            frames = np.pad(frames, padding, mode="wrap" if len(frames) > 20 else "constant")
        starts = [*range(0, len(frames) - WINDOW + 1, STEP)]
        if len(frames) - WINDOW - starts[-1] > STEP // 2:
            starts.append(len(frames) - WINDOW)
        partials = torch.from_numpy(np.stack([frames[start : start + WINDOW] for start in starts]))
        _, (hidden, _) = self.lstm(partials)
        embeddings = torch.relu(self.linear(hidden[-1]))
        embeddings = embeddings / embeddings.norm(dim=1, keepdim=True).clamp(min=1e-9)
        mean = embeddings.mean(0)
        return np.asarray((mean / mean.norm().clamp(min=1e-9)).numpy())


@cache
def load_encoder() -> SpeakerEncoder:
    """Loaded once a process. Raises NotFound where its package cannot be downloaded, DataError."""
    folder = packages.unpack(*PACKAGE, Reporter(), r"resemblyzer/pretrained\.pt$")
    weights = folder / "resemblyzer" / "pretrained.pt"
    if not weights.exists():
        raise DataError(
            "the speaker encoder is not complete",
            why=f"{weights} is missing",
            fix=f"remove {folder} and run it again",
        )
    return SpeakerEncoder(weights)


def normalize_volume(sound: np.ndarray) -> np.ndarray:
    """Raised to LEVEL_DBFS where it is quieter, as in the encoder's training."""
    level = float(np.sqrt(np.mean(sound.astype(np.float64) ** 2))) if len(sound) else 0.0
    if level <= 1e-6:
        return sound
    gain = 10 ** (LEVEL_DBFS / 20) / level
    return sound * np.float32(max(1.0, gain))


def mel(sound: np.ndarray) -> np.ndarray:
    """(frames, 40): power in mel bands (Slaney), not in decibels, as librosa's melspectrogram gives
    it by default."""
    padded = np.pad(sound, N_FFT // 2)
    if len(padded) < N_FFT:
        padded = np.pad(padded, (0, N_FFT - len(padded)))
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    rows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP] * window
    power = np.abs(np.fft.rfft(rows, axis=1)) ** 2
    return np.asarray(power @ _filters().T, dtype=np.float32)


@cache
def _filters() -> np.ndarray:
    return np.asarray(FeatureExtractor.get_mel_filters(RATE_HZ, N_FFT, MELS))
