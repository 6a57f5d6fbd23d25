"""Speech, measured on the real data beside the project; peers in turn in one run, medians.

python tests/bench/bench_asr.py wer
    word errors on LibriVox, LJ Speech and fleurs, normalised as Whisper does
python tests/bench/bench_asr.py rtf
    real-time factor beside faster-whisper called directly with the same options: long speech,
    and half silence
python tests/bench/bench_asr.py diarize
    diarization error on synthetic conversations (flite, espeak-ng) and AMI clips, number of
    speakers not given
python tests/bench/bench_asr.py levels
    diarization error on AMI clips at five levels and three amounts of noise, with and without
    the levelling of quiet sound
python tests/bench/bench_asr.py fsdd
    fine-tune on spoken digits, scored before and after and on everyday speech
python tests/bench/bench_asr.py editor
    punctuation and casing of SmolLM2 on 200 sentences that lost theirs
python tests/bench/bench_asr.py memory
    three hours of sound: peak resident memory
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import voices
from faster_whisper import BatchedInferencePipeline, WhisperModel

from onecard.inference.backends import language_model
from onecard.inference.config import LlmConfig
from onecard.memory.devices import find
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.tasks.asr import (
    audio,
    corpora,
    evaluate,
    metrics,
    model_files,
    punctuation_restorer,
    recording,
)
from onecard.tasks.asr import speech as speech_regions
from onecard.tasks.asr.configs import DecodeConfig, DiarizeConfig, RecordingConfig
from onecard.tasks.asr.corpora import Clip
from onecard.tasks.asr.diarization import EmbeddingDiarizer
from onecard.tasks.asr.diarization_error import COLLAR_S, diarization_error, read_rttm
from onecard.tasks.asr.transcriber import Transcriber
from onecard.tasks.asr.transcript import Turn

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "bench-results" / "asr.json"


def lj():
    lines = (DATA / "ljspeech8" / "metadata.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines]
    return [Clip(DATA / "ljspeech8" / f"{row[0]}.flac", row[-1], "", row[0]) for row in rows]


def wer(args):
    transcriber, out = Transcriber(DecodeConfig(), Reporter()), {}
    sets = {"LibriVox (5)": corpora.read(str(DATA / "librivox5")), "LJ Speech (8)": lj()}
    for language in ("en", "de", "es", "fr", "pt"):
        sets[f"fleurs {language} (10)"] = [
            clip for clip in corpora.read(str(DATA / "fleurs")) if f"fleurs-{language}-" in clip.id
        ]
    for name, clips in sets.items():
        items = evaluate.transcribe_all(transcriber, clips, RecordingConfig(), Reporter())
        rates = metrics.error_rates([item.errors() for item in items])
        seconds = sum(item.transcript.seconds for item in items)
        rtf = sum(item.seconds_taken for item in items) / seconds
        language = name.split()[1] if "fleurs" in name else "en"
        right = sum(item.transcript.language == language for item in items)
        out[name] = {
            "wer": rates["wer"].as_dict(),
            "cer": rates["cer"].as_dict(),
            "real_time_factor": rtf,
            "language_right": right,
            "n": len(clips),
        }
        print(
            f"{name:16} WER {rates['wer'].value:6.1%} [{rates['wer'].low:.1%}, "
            f"{rates['wer'].high:.1%}]  CER {rates['cer'].value:.1%}  RTF {rtf:.2f}  language "
            f"{right}/{len(clips)}",
            flush=True,
        )
    return out


def speech(seconds, silent):
    """Real read speech, joined; with `silent`, as much silence between the clips as speech."""
    clips = [audio.load(clip.path) for clip in [*corpora.read(str(DATA / "librivox5")), *lj()]]
    pieces, n, i = [], 0, 0
    random = np.random.default_rng(0)
    while n < seconds * audio.RATE_HZ:
        clip = clips[i % len(clips)]
        pieces.append(clip)
        if silent:
            pieces.append(random.normal(0, 1e-4, len(clip)).astype(np.float32))
        n, i = n + len(pieces[-1]) * (2 if silent else 1), i + 1
    return np.concatenate(pieces)


def rtf(args):
    """int8, beam 5, word times, English, batches of 8: ours, the batched pipeline (with its own
    voice activity detection), and plain transcribe()."""
    transcriber = Transcriber(DecodeConfig(language="en"), Reporter())
    folder = str(model_files.find("base", Reporter()))
    plain = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=0)
    batched = BatchedInferencePipeline(plain)
    options = {"language": "en", "beam_size": 5, "word_timestamps": True}
    out = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, silent in (("long speech", False), ("half silence", True)):
            path = voices.write(Path(temp) / "long.wav", speech(args.seconds, silent))

            def ours(path=path):
                for _, sound, regions in recording.chunks(transcriber, path, audio.AudioInfo()):
                    transcriber.transcribe(sound, "en", regions)

            def pipeline(path=path):
                list(batched.transcribe(str(path), batch_size=8, vad_filter=True, **options)[0])

            def direct(path=path):
                list(plain.transcribe(str(path), **options)[0])

            length = audio.duration_s(path)
            times = {"ours": [], "batched": [], "direct": []}
            for turn in range(args.rounds + 1):
                for who, call in (("batched", pipeline), ("ours", ours), ("direct", direct)):
                    started = time.perf_counter()
                    call()
                    if turn:
                        times[who].append((time.perf_counter() - started) / length)
            middle = {who: statistics.median(values) for who, values in times.items()}
            out[name] = {
                "real_time_factor": middle,
                "ratio_batched": middle["ours"] / middle["batched"],
                "ratio_direct": middle["ours"] / middle["direct"],
                "seconds": length,
                "all": times,
            }
            print(
                f"{name}, {length:.0f} s: ours {middle['ours']:.3f}, batched pipeline "
                f"{middle['batched']:.3f} ({out[name]['ratio_batched']:.2f}x), transcribe() "
                f"{middle['direct']:.3f} ({out[name]['ratio_direct']:.2f}x)",
                flush=True,
            )
    return out


def diarization(args):
    transcriber, out = Transcriber(DecodeConfig(), Reporter()), {}

    def score(path, reference):
        sound = audio.load(path)
        diarizer = EmbeddingDiarizer(DiarizeConfig())
        diarizer.add(sound, transcriber.regions(sound), 0.0)
        turns = diarizer.turns()
        return diarization_error(turns, reference, len(sound) / audio.RATE_HZ) | {
            "found": len({turn.speaker for turn in turns}),
            "true": len({turn.speaker for turn in reference}),
        }

    with tempfile.TemporaryDirectory() as temp:
        for pair in voices.PAIRS:
            for seed in range(args.rounds):
                sound, rttm = voices.conversation(pair, Path(temp), seed=seed)
                out[f"{pair[0]} and {pair[1]}, {seed}"] = score(sound, read_rttm(rttm))
    mean = statistics.mean(row["der"] for row in out.values())
    reference = ami_turns()
    for path in sorted((DATA / "ami_diar").glob("*.wav")):
        out[f"AMI {path.stem}"] = score(path, reference[path.stem])
    for name, row in out.items():
        print(
            f"{name:28} DER {row['der']:6.1%}  missed {row['missed_s']:.1f} s, false alarm "
            f"{row['false_alarm_s']:.1f} s, confusion {row['confusion_s']:.1f} s of "
            f"{row['total_s']:.1f} s; speakers {row['found']} of {row['true']}"
        )
    print(f"synthetic conversations: mean DER {mean:.1%} (collar {COLLAR_S} s, number not given)")
    return {"rows": out, "made_mean_der": mean}


GAINS_DB = (0, -10, -20, -30, -50)
NOISE_DB = (None, 20, 10)
"""Signal to noise over the whole clip; None adds nothing."""


def with_noise(sound, gain_db, snr_db):
    """Pink noise, as rooms and microphones have it; in 16 bits, as a file would hold it."""
    sound = sound * 10 ** (gain_db / 20)
    if snr_db is not None:
        spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 1, len(sound)))
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        noise = np.fft.irfft(spectrum, len(sound))
        sound = sound + noise / noise.std() * sound.std() * 10 ** (-snr_db / 20)
    return (np.round(sound * 32768) / 32768).astype(np.float32)


def ami_turns():
    """Name of a clip -> its reference turns."""
    reference: dict = {}
    for line in (DATA / "ami_diar" / "debug.train.rttm").read_text().splitlines():
        part = line.split()
        turn = Turn(float(part[3]), float(part[3]) + float(part[4]), part[7])
        reference.setdefault(part[1], []).append(turn)
    return reference


def levels(args):
    """All four clips together: seconds of error over seconds of speech."""
    reference, out = ami_turns(), {}
    clips = [(path, audio.load(path)) for path in sorted((DATA / "ami_diar").glob("*.wav"))]
    levelled = speech_regions.levelled
    for snr in NOISE_DB:
        for gain in GAINS_DB:
            for name, level in (("as it is", lambda sound: sound), ("levelled", levelled)):
                speech_regions.levelled = level
                sums = dict.fromkeys(("missed_s", "false_alarm_s", "confusion_s", "total_s"), 0.0)
                for path, clip in clips:
                    sound = with_noise(clip, gain, snr)
                    diarizer = EmbeddingDiarizer(DiarizeConfig())
                    regions = speech_regions.regions(sound, DecodeConfig().vad_threshold)
                    diarizer.add(sound, regions, 0.0)
                    row = diarization_error(
                        diarizer.turns(), reference[path.stem], len(sound) / audio.RATE_HZ
                    )
                    sums = {key: sums[key] + row[key] for key in sums}
                sums["der"] = (sum(sums.values()) - sums["total_s"]) / sums["total_s"]
                out[f"{gain} dB, noise {snr}, {name}"] = sums
                print(gain, snr, name, {key: round(sums[key], 3) for key in sums}, flush=True)
    speech_regions.levelled = levelled
    return out


def fsdd(args):
    """Train on takes 5 to 24 of both speakers, test on 0 to 4; LibriVox and LJ are everyday."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    with tempfile.TemporaryDirectory() as temp:
        rows: dict = {"train": [], "test": []}
        for path in sorted((DATA / "fsdd").glob("*.wav")):
            digit, speaker, take = path.stem.split("_")
            if int(take) < 25:
                row = {"audio": str(path), "text": names[int(digit)], "speaker": speaker}
                rows["test" if int(take) < 5 else "train"].append(row)
        for part, part_rows in rows.items():
            (Path(temp) / f"{part}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in part_rows)
            )
        (Path(temp) / "general.jsonl").write_text(
            "".join(
                json.dumps({"audio": str(clip.path), "text": clip.text}) + "\n"
                for clip in [*corpora.read(str(DATA / "librivox5")), *lj()]
            )
        )
        started = time.perf_counter()
        process = subprocess.run(
            [
                sys.executable,
                "-m",
                "onecard",
                "asr",
                "train",
                f"{temp}/train.jsonl",
                "--eval_dataset",
                f"{temp}/test.jsonl",
                "--general_dataset",
                f"{temp}/general.jsonl",
                "--language",
                "en",
                "--num_train_epochs",
                "3",
                "--output_dir",
                f"{temp}/out",
                "--json",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        result = json.loads(process.stdout)
        spent = time.perf_counter() - started
    print(
        "\n".join(result["verdicts"]),
        f"\n{len(rows['train'])} clips, {spent / 60:.1f} min on {subprocess.os.cpu_count()} cores",
    )
    return {
        "metrics": result["metrics"],
        "verdicts": result["verdicts"],
        "minutes": spent / 60,
        "train": len(rows["train"]),
        "test": len(rows["test"]),
    }


def sentences():
    """200 sentences of MedQuAD's answers, as words."""
    text = " ".join(
        re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8"))
        for path in sorted((DATA / "medquad").rglob("*.xml"))[:60]
    )
    found = [s.split() for s in re.split(r"(?<=[.?!])\s+", " ".join(text.split()))]
    return [
        words
        for words in found
        if 6 <= len(words) <= 30
        and re.fullmatch(r"[\w ,.;:?!'’-]+", " ".join(words))
        and words[-1][-1] in ".?!"
    ][::3][:200]


def mark_of(word):
    return word[-1] if word[-1] in punctuation_restorer.MARKS else ""


def editor(args):
    """Marks and capitals that SmolLM2 restores within the grammar."""
    # [right, restored, in the text]
    counts = {"mark": [0, 0, 0], "capital": [0, 0, 0]}
    n_changed = 0
    test_set = sentences()
    started = time.perf_counter()
    with language_model(
        LlmConfig(model="smollm2-135m", n_ctx=2048), Plan((), find("cpu")), Reporter()
    ) as client:
        ask = punctuation_restorer.ask_client(client)
        for words in test_set:
            bare = [punctuation_restorer.bare(word) or word for word in words]
            restored = punctuation_restorer.restore(bare, (), ask).text.split()
            n_changed += punctuation_restorer.unlisted_changes(bare, restored, ())
            for ours, true in zip(restored, words, strict=True):
                capitals = ours[:1].isupper() and "A", true[:1].isupper() and "A"
                for what, (got, expected) in (
                    ("mark", (mark_of(ours), mark_of(true))),
                    ("capital", capitals),
                ):
                    counts[what][0] += bool(got and got == expected)
                    counts[what][1] += bool(got)
                    counts[what][2] += bool(expected)
    out = {
        what: {"precision": a / max(b, 1), "recall": a / max(c, 1), "f1": 2 * a / max(b + c, 1)}
        for what, (a, b, c) in counts.items()
    }
    print(
        f"{len(test_set)} sentences in {time.perf_counter() - started:.0f} s: "
        + "; ".join(
            f"{what} F1 {row['f1']:.2f} (precision {row['precision']:.2f}, recall "
            f"{row['recall']:.2f})"
            for what, row in out.items()
        )
        + f"; {n_changed} words changed"
    )
    return out | {"sentences": len(test_set), "changed_words": n_changed}


def memory(args):
    """In a process of its own, greedy and without word times: three hours of mostly silent sound
    with speech in it."""
    code = (
        "import sys\n"
        "from onecard.cli.app import main\n"
        "from onecard.runs.record import peak_rss_bytes\n"
        "main(['asr', 'transcribe', sys.argv[1], '--language', 'en', '--beam_size', '1', "
        "'--no-word_timestamps', '--output_dir', sys.argv[2], '--json'])\n"
        "print('RESULT', peak_rss_bytes() >> 20)"
    )
    out = {}
    with tempfile.TemporaryDirectory() as temp:
        short = speech(60, False)
        for name, hours in (("one minute", 0), ("three hours", 3)):
            path = Path(temp) / "long.wav"
            if hours:
                gap = np.zeros(19 * 60 * audio.RATE_HZ, np.float32)
                voices.write(path, np.concatenate([np.concatenate([short, gap])] * 9))
            else:
                voices.write(path, short)
            started = time.perf_counter()
            process = subprocess.run(
                [sys.executable, "-c", code, str(path), temp], capture_output=True, text=True
            )
            out[name] = {
                "peak_mib": int(process.stdout.rpartition("RESULT")[2]),
                "seconds": audio.duration_s(path),
                "spent_s": time.perf_counter() - started,
            }
            print(name, out[name], flush=True)
    return out | {"self_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


WHAT = {
    "wer": wer,
    "rtf": rtf,
    "diarize": diarization,
    "levels": levels,
    "fsdd": fsdd,
    "editor": editor,
    "memory": memory,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=240)
    args = parser.parse_args()
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    results[args.what] = WHAT[args.what](args)
    OUT.write_text(json.dumps(results, indent=1))
