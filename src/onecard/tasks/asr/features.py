"""Clips to what Whisper trains on: token ids, mel features, augmented copies, and the encoder's
output where it is frozen.

Letters: B clips of a batch, T tokens, D width of the model; 3000 mel frames and 1500 encoder
positions are 30 s.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onecard import fsio
from onecard.reporting import Reporter
from onecard.tasks.asr import dataset
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import TrainConfig
from onecard.tasks.asr.corpora import Clip
from onecard.tasks.asr.dataset import MAX_CLIP_S
from onecard.training import output_dir

IGNORED = -100
"""Label that cross-entropy skips (torch's ignore_index)."""
MAX_TEXT_TOKENS = 440
"""Of the decoder's 448 positions."""
ENCODER_POSITIONS = 1500
MEL_FRAMES_PER_SECOND = 100
ENCODER_BATCH = 8
MARGIN_BYTES = 2**28
N_MASKS = 2
MAX_MASKED_MELS = 13
"""Of 80 or 128 bands."""
MASKED_SHARE = 20
"""A time mask is up to 1/20 of the clip."""


@dataclass
class Batch:
    """ids_BT and labels_BT. `inputs` is the encoder's output (B, 1500, D), or mel features
    (B, mels, 3000)."""

    inputs: Tensor
    ids: Tensor
    labels: Tensor


# Texts


def prompt_tokens(processor: Any, language: str) -> list[int]:
    """<|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|>; models of English alone have no
    tokens for language and task."""
    tokenizer = processor.tokenizer
    vocabulary = tokenizer.get_vocab()
    tokens = ["<|startoftranscript|>"]
    if f"<|{language}|>" in vocabulary and "<|transcribe|>" in vocabulary:
        tokens += [f"<|{language}|>", "<|transcribe|>"]
    ids: list[int] = tokenizer.convert_tokens_to_ids([*tokens, "<|notimestamps|>"])
    return ids


def text_tokens(processor: Any, text: str) -> list[int]:
    ids: list[int] = processor.tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"]
    return ids[:MAX_TEXT_TOKENS]


def target_tokens(processor: Any, text: str, language: str) -> list[int]:
    """Prompt, text and end mark."""
    end = processor.tokenizer.eos_token_id
    return [*prompt_tokens(processor, language), *text_tokens(processor, text), end]


def pad_targets(rows: Sequence[list[int]], n_prompt: int) -> tuple[Tensor, Tensor]:
    """(ids_BT, labels_BT) of rows as target_tokens gives them: each id predicts the next one. The
    prompt is given and not learned, padding is ignored."""
    end = rows[0][-1]
    length = max(map(len, rows)) - 1
    ids = torch.full((len(rows), length), end)
    labels = torch.full((len(rows), length), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row) - 1] = torch.tensor(row[:-1])
        labels[i, n_prompt - 1 : len(row) - 1] = torch.tensor(row[n_prompt:])
    return ids, labels


# Sounds


def mel_features(processor: Any, sounds: Sequence[np.ndarray], device: Any) -> Tensor:
    """(B, mels, 3000): clips padded with silence."""
    features: Tensor = processor.feature_extractor(
        sounds, sampling_rate=RATE_HZ, return_tensors="pt"
    ).input_features.to(device)
    return features


def augmented_features(
    processor: Any, sound: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """(mels, 3000) of a varied clip with SpecAugment (Park et al. 2019): two bands of up to 13 mels
    and two spans of up to 5 % of the clip are masked by the mean."""
    sound = augment(sound, random)
    extract = processor.feature_extractor
    mel = extract(sound, sampling_rate=RATE_HZ, return_tensors="np").input_features[0]
    n_mels, n_frames = mel.shape
    clip_frames = min(n_frames, len(sound) * MEL_FRAMES_PER_SECOND // RATE_HZ)
    clip_frames = max(20, clip_frames)
    for _ in range(N_MASKS):
        width = int(random.integers(0, MAX_MASKED_MELS + 1))
        start = int(random.integers(0, n_mels - MAX_MASKED_MELS - 1))
        mel[start : start + width] = mel.mean()
        width = int(random.integers(0, max(1, clip_frames // MASKED_SHARE)))
        start = int(random.integers(0, max(1, clip_frames - width)))
        mel[:, start : start + width] = mel.mean()
    return np.asarray(mel)


def augment(sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """0.9 to 1.1 times as fast (Ko et al. 2015), with white noise 15 to 40 dB below it, 0.7 to 1.3
    times as loud; at most 30 s."""
    speed = float(random.uniform(0.9, 1.1))
    positions = np.arange(0, len(sound) - 1, speed)
    varied = np.interp(positions, np.arange(len(sound)), sound).astype(np.float32)
    noise_db = -float(random.uniform(15, 40))
    level = float(np.sqrt(np.mean(varied**2))) * 10 ** (noise_db / 20)
    noise = random.normal(0, level, len(varied)).astype(np.float32)
    varied = (varied + noise) * float(random.uniform(0.7, 1.3))
    return np.clip(varied, -1, 1)[: int(MAX_CLIP_S * RATE_HZ)]


# The frozen encoder's output


def fingerprint(clips: Sequence[Clip]) -> str:
    """sha256 over the clips' names and texts."""
    rows = "\n".join(f"{clip.id}\t{clip.text}" for clip in clips)
    return hashlib.sha256(rows.encode()).hexdigest()


def encoder_files(out: Path) -> tuple[Path, Path]:
    """(array, its key): 1.5 MB a clip for Whisper base."""
    return out / "encoded.npy", out / "encoded.json"


def encode_clips(
    net: Any,
    processor: Any,
    clips: Sequence[Clip],
    config: TrainConfig,
    out: Path,
    reporter: Reporter,
) -> np.ndarray:
    """(n, 1500, D) in fp16, on the disk: the encoder's output for each clip, then for `augment`
    varied copies of each. Computed once, and again where clips or settings differ.

    Raises DataError where the disk is too small.
    """
    n, width = len(clips) * (1 + config.augment), net.config.d_model
    array_file, key_file = encoder_files(out)
    key = json.dumps([fingerprint(clips), config.augment, config.seed, width])
    if not (array_file.exists() and key_file.exists() and key_file.read_text() == key):
        output_dir.require_space(
            out,
            n * ENCODER_POSITIONS * width * 2 + MARGIN_BYTES,
            f"the encoder's output of {n} clips",
            fix="--output_dir elsewhere, fewer clips, or --no-freeze_encoder",
        )
        shape = (n, ENCODER_POSITIONS, width)
        encoded = np.lib.format.open_memmap(array_file, mode="w+", dtype=np.float16, shape=shape)
        device = next(net.parameters()).device
        with reporter.progress("encoding", n) as bar, torch.inference_mode():
            for start in range(0, n, ENCODER_BATCH):
                stop = min(n, start + ENCODER_BATCH)
                sounds = [_sound(clips, i, config.seed) for i in range(start, stop)]
                features = mel_features(processor, sounds, device)
                hidden = net.model.encoder(features).last_hidden_state
                encoded[start:stop] = hidden.half().cpu().numpy()
                bar.step(stop - start)
        encoded.flush()
        del encoded
        fsio.write_text(key_file, key)
    return np.load(array_file, mmap_mode="r")


def _sound(clips: Sequence[Clip], i: int, seed: int) -> np.ndarray:
    """The i-th sound: each clip, then varied copies of each."""
    sound = dataset.load_sound(clips[i % len(clips)])
    if i < len(clips):
        return sound
    return augment(sound, np.random.default_rng([seed, i]))
