"""Speech, measured on the real data beside the project; peers in turn in one run, medians.

python tests/bench/bench_asr.py wer       word errors on LibriVox, LJ Speech and fleurs, normalised as Whisper does
python tests/bench/bench_asr.py rtf       real-time factor beside faster-whisper called directly with the same options: long speech, and half silence
python tests/bench/bench_asr.py diarize   diarization error on made conversations (flite, espeak-ng) and AMI clips, number of speakers not given
python tests/bench/bench_asr.py fsdd      fine-tune on spoken digits, scored before and after and on everyday speech
python tests/bench/bench_asr.py editor    punctuation and casing of SmolLM2 on 200 sentences that lost theirs
python tests/bench/bench_asr.py memory    three hours of sound: peak resident memory
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

from onecard.reporting import Reporter
from onecard.tasks.asr import (
    audio,
    dataset,
    diarize,
    evaluate,
    model,
    punctuation_restorer,
    transcribe,
)
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.dataset import Pair

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "bench-results" / "asr.json"


def lj():
    rows = [
        line.split("|")
        for line in (DATA / "ljspeech8" / "metadata.csv").read_text(encoding="utf-8").splitlines()
    ]
    return [Pair(DATA / "ljspeech8" / f"{row[0]}.flac", row[-1], "", row[0]) for row in rows]


def wer(args):
    ear, out = model.Transcriber(Settings(), Reporter()), {}
    sets = {"LibriVox (5)": dataset.read(str(DATA / "librivox5")), "LJ Speech (8)": lj()}
    for language in ("en", "de", "es", "fr", "pt"):
        sets[f"fleurs {language} (10)"] = [
            pair for pair in dataset.read(str(DATA / "fleurs")) if f"fleurs-{language}-" in pair.id
        ]
    for name, pairs in sets.items():
        heard = evaluate.hear_all(ear, pairs, Settings(), Reporter())
        rows = [
            evaluate.errors(heard[pair.id][0].text, pair.text, heard[pair.id][0].language)
            for pair in pairs
        ]
        found = evaluate.rates(rows)
        spent = sum(seconds for _, seconds in heard.values()) / sum(
            made.seconds for made, _ in heard.values()
        )
        right = sum(
            heard[pair.id][0].language == (name.split()[1] if "fleurs" in name else "en")
            for pair in pairs
        )
        out[name] = {
            "wer": found["wer"].as_dict(),
            "cer": found["cer"].as_dict(),
            "real_time_factor": spent,
            "language_right": right,
            "n": len(pairs),
        }
        print(
            f"{name:16} WER {found['wer'].value:6.1%} [{found['wer'].low:.1%}, "
            f"{found['wer'].high:.1%}]  CER {found['cer'].value:.1%}  RTF {spent:.2f}  language "
            f"{right}/{len(pairs)}",
            flush=True,
        )
    return out


def speech(seconds, silent):
    """Real read speech laid end to end; with `silent` as much silence between the clips as speech."""
    clips = [audio.load(pair.path) for pair in [*dataset.read(str(DATA / "librivox5")), *lj()]]
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
    voice activity), and plain transcribe()."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    ear = model.Transcriber(Settings(language="en"), Reporter())
    plain = WhisperModel(
        str(model.folder("base", Reporter())), device="cpu", compute_type="int8", cpu_threads=0
    )
    batched = BatchedInferencePipeline(plain)
    out = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, silent in (("long speech", False), ("half silence", True)):
            path = voices.write(Path(temp) / "long.wav", speech(args.seconds, silent))

            def ours(path=path):
                return sum(
                    len(ear.hear(sound, "en", regions)[0])
                    for _, sound, regions in transcribe.stretches(ear, path, audio.Facts())
                )

            def pipeline(path=path):
                return len(
                    list(
                        batched.transcribe(
                            str(path),
                            language="en",
                            beam_size=5,
                            word_timestamps=True,
                            batch_size=8,
                            vad_filter=True,
                        )[0]
                    )
                )

            def direct(path=path):
                return len(
                    list(
                        plain.transcribe(
                            str(path), language="en", beam_size=5, word_timestamps=True
                        )[0]
                    )
                )

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
    ear, out = model.Transcriber(Settings(), Reporter()), {}

    def one(path, reference):
        sound = audio.load(path)
        held = diarize.Voices(Settings())
        held.add(sound, ear.regions(sound), 0.0)
        turns = held.turns()
        return evaluate.der(turns, reference, len(sound) / audio.RATE_HZ) | {
            "found": len({turn.speaker for turn in turns}),
            "true": len({turn.speaker for turn in reference}),
        }

    with tempfile.TemporaryDirectory() as temp:
        for pair in voices.PAIRS:
            for seed in range(args.rounds):
                sound, rttm = voices.conversation(pair, Path(temp), seed=seed)
                out[f"{pair[0]} and {pair[1]}, {seed}"] = one(sound, evaluate.read_rttm(rttm))
    made = statistics.mean(row["der"] for row in out.values())
    reference: dict = {}
    for line in (DATA / "ami_diar" / "debug.train.rttm").read_text().splitlines():
        part = line.split()
        reference.setdefault(part[1], []).append(
            evaluate.Turn(float(part[3]), float(part[3]) + float(part[4]), part[7])
        )
    for path in sorted((DATA / "ami_diar").glob("*.wav")):
        out[f"AMI {path.stem}"] = one(path, reference[path.stem])
    for name, row in out.items():
        print(
            f"{name:28} DER {row['der']:6.1%}  missed {row['missed_s']:.1f} s, false alarm "
            f"{row['false_alarm_s']:.1f} s, confusion {row['confusion_s']:.1f} s of "
            f"{row['total_s']:.1f} s; speakers {row['found']} of {row['true']}"
        )
    print(
        f"made conversations: mean DER {made:.1%} (collar {evaluate.COLLAR_S} s, number not given)"
    )
    return {"rows": out, "made_mean_der": made}


def fsdd(args):
    """Train on takes 5 to 24 of both speakers, test on 0 to 4; everyday speech is LibriVox and LJ."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    with tempfile.TemporaryDirectory() as temp:
        rows: dict = {"train": [], "test": []}
        for path in sorted((DATA / "fsdd").glob("*.wav")):
            digit, speaker, take = path.stem.split("_")
            part = "test" if int(take) < 5 else "train" if int(take) < 25 else ""
            if part:
                rows[part].append(
                    {"audio": str(path), "text": names[int(digit)], "speaker": speaker}
                )
        for part, found in rows.items():
            (Path(temp) / f"{part}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in found)
            )
        (Path(temp) / "general.jsonl").write_text(
            "".join(
                json.dumps({"audio": str(pair.path), "text": pair.text}) + "\n"
                for pair in [*dataset.read(str(DATA / "librivox5")), *lj()]
            )
        )
        started = time.perf_counter()
        done = subprocess.run(
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
        answer = json.loads(done.stdout)
        spent = time.perf_counter() - started
    print(
        "\n".join(answer["verdicts"]),
        f"\n{len(rows['train'])} clips, {spent / 60:.1f} min on {subprocess.os.cpu_count()} cores",
    )
    return {
        "metrics": answer["metrics"],
        "verdicts": answer["verdicts"],
        "minutes": spent / 60,
        "train": len(rows["train"]),
        "test": len(rows["test"]),
    }


def edits(args):
    """Marks and capitals that SmolLM2 puts back within the grammar; sentences of MedQuAD's answers."""
    from onecard.inference.backends import language_model
    from onecard.inference.config import EngineSettings
    from onecard.memory.devices import find
    from onecard.memory.plan import Plan

    text = " ".join(
        re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8"))
        for path in sorted((DATA / "medquad").rglob("*.xml"))[:60]
    )
    held = [
        words
        for s in re.split(r"(?<=[.?!])\s+", " ".join(text.split()))
        if 6 <= len(words := s.split()) <= 30
        and re.fullmatch(r"[\w ,.;:?!'’-]+", s)
        and s[-1] in ".?!"
    ][::3][:200]
    hits = {"mark": [0, 0, 0], "capital": [0, 0, 0]}
    changed = 0
    started = time.perf_counter()
    with language_model(EngineSettings(n_ctx=2048), Plan((), find("cpu")), Reporter()) as client:
        ask = punctuation_restorer.asker(client)
        for words in held:
            said = [punctuation_restorer.bare(word) or word for word in words]
            done = punctuation_restorer.edit(said, (), ask).text.split()
            changed += punctuation_restorer.unlisted(said, done, ())
            for mine, true in zip(done, words, strict=True):
                for what, got, want in (
                    (
                        "mark",
                        mine[-1] if mine[-1] in punctuation_restorer.MARKS else "",
                        true[-1] if true[-1] in punctuation_restorer.MARKS else "",
                    ),
                    ("capital", mine[:1].isupper() and "A", true[:1].isupper() and "A"),
                ):
                    hits[what][0] += bool(got and got == want)
                    hits[what][1] += bool(got)
                    hits[what][2] += bool(want)
    out = {
        what: {"precision": a / max(b, 1), "recall": a / max(c, 1), "f1": 2 * a / max(b + c, 1)}
        for what, (a, b, c) in hits.items()
    }
    print(
        f"{len(held)} sentences in {time.perf_counter() - started:.0f} s: "
        + "; ".join(
            f"{what} F1 {row['f1']:.2f} (precision {row['precision']:.2f}, recall "
            f"{row['recall']:.2f})"
            for what, row in out.items()
        )
        + f"; {changed} words changed"
    )
    return out | {"sentences": len(held), "changed_words": changed}


def memory(args):
    """In a process of its own, greedy and without word times: three hours of mostly silent sound
    with speech in it."""
    code = (
        "import sys\nfrom onecard.cli import main\nfrom onecard.runs.record import "
        "peak_rss_bytes\nmain(['asr', 'transcribe', sys.argv[1], '--language', 'en', "
        "'--beam_size', '1', '--no-word_timestamps', '--output_dir', sys.argv[2], "
        "'--json'])\nprint('RESULT', peak_rss_bytes() >> 20)"
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
            done = subprocess.run(
                [sys.executable, "-c", code, str(path), temp], capture_output=True, text=True
            )
            out[name] = {
                "peak_mib": int(done.stdout.rpartition("RESULT")[2]),
                "seconds": audio.duration_s(path),
                "spent_s": time.perf_counter() - started,
            }
            print(name, out[name], flush=True)
    return out | {"self_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


WHAT = {
    "wer": wer,
    "rtf": rtf,
    "diarize": diarization,
    "fsdd": fsdd,
    "editor": edits,
    "memory": memory,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=240)
    args = parser.parse_args()
    held = json.loads(OUT.read_text()) if OUT.exists() else {}
    held[args.what] = WHAT[args.what](args)
    OUT.write_text(json.dumps(held, indent=1))
