"""How many speakers are found, on dialogues made of real voices whose spans are known.

python tests/bench/bench_speakers.py [--dialogues 300]     1 minute

One to five people of different corpora and languages (fleurs, LJ Speech, LibriVox, JFK), in spans
of 0.45 to 5 s, a quarter of them one-word replies under 0.9 s. The clips of `train` chose
MIN_SILHOUETTE; those of `test` are others, except where a corpus has one clip.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from onecard.tasks.asr import audio, diarization, speaker_embedding, speech
from onecard.tasks.asr.audio import RATE_HZ

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
METHODS = {"distance of 0.27": diarization.TWO_VOICES_DISTANCE, "silhouette": 0.0}


def clips():
    """(person or, for fleurs, language; file): two of one language may be one person."""
    for path in sorted((DATA / "fleurs").glob("*.ogg")):
        yield path.name.split("-")[1], path
    for name in ("ljspeech8", "librivox5", "jfk"):
        for path in sorted(p for p in (DATA / name).rglob("*") if p.suffix in (".wav", ".flac")):
            yield name, path


def spans_of(path, random, encoder):
    """(seconds, embedding) of stretches of speech, cut at random lengths."""
    sound = audio.load(path)
    shortest = int(0.45 * RATE_HZ)
    for start, end in speech.without_padding(speech.regions(sound, 0.5), len(sound)):
        while end - start > shortest:
            low, high = [(0.45, 0.9), (0.9, 2), (2, 5)][random.choice(3, p=[0.25, 0.35, 0.4])]
            stop = min(end, start + int(random.uniform(low, high) * RATE_HZ))
            if end - stop < shortest:
                stop = end
            yield (stop - start) / RATE_HZ, encoder.embed(sound[start:stop])
            start = stop


def dialogue(people, random):
    """(seconds, embedding, person) of each span, in random order."""
    n = min(int(random.choice([1, 2, 3, 4, 5], p=[0.15, 0.3, 0.25, 0.2, 0.1])), len(people))
    rows = []
    for person in random.choice(sorted(people), n, replace=False):
        clip = people[person][random.integers(len(people[person]))]
        n_spans = int(random.integers(2, max(3, len(clip) + 1)))
        rows += [(*clip[i], person) for i in random.permutation(len(clip))[:n_spans]]
    return [rows[i] for i in random.permutation(len(rows))]


def score(rows, threshold):
    """(share of the time given to the wrong person, speakers found, true)."""
    lengths = np.array([row[0] for row in rows])
    labels = diarization.cluster(np.stack([row[1] for row in rows]), lengths, 0, threshold)
    people = sorted({row[2] for row in rows})
    seconds = np.zeros((len(people), labels.max() + 1))
    for (length, _, person), label in zip(rows, labels, strict=True):
        seconds[people.index(person), label] += length
    right = seconds[linear_sum_assignment(-seconds)].sum()
    return 1 - right / lengths.sum(), labels.max() + 1, len(people)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=300)
    args = parser.parse_args()
    encoder, random = speaker_embedding.load_encoder(), np.random.default_rng(1)
    voices: dict = {}
    for person, path in clips():
        spans = list(spans_of(path, random, encoder))
        if spans:
            voices.setdefault(person, []).append(spans)
    out = {}
    for seed, part in enumerate(("train", "test")):
        people = {person: rows[seed::2] or rows for person, rows in voices.items()}
        random = np.random.default_rng(seed)
        made = [dialogue(people, random) for _ in range(args.dialogues)]
        for name, threshold in METHODS.items():
            scores = [score(rows, threshold) for rows in made]
            for n in range(1, 6):
                own = [row for row in scores if row[2] == n]
                cell = {
                    "dialogues": len(own),
                    "wrong_time": float(np.mean([row[0] for row in own])),
                    "count_right": float(np.mean([row[1] == n for row in own])),
                }
                out[f"{part}, {name}, {n} speakers"] = cell
                print(part, name, n, cell, flush=True)
    (ROOT / "bench-results" / "speakers.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
