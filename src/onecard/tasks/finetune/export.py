"""A trained adapter to files that others open: merged safetensors, GGUF in several widths, a GGUF
of the adapter, an Ollama Modelfile; each asked the same questions. Knows no trainer."""

import gc
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from onecard import fsio, paths
from onecard.errors import DataError, SettingsError, not_found
from onecard.evaluation import stats
from onecard.export import gguf, quantize
from onecard.hub import checkpoints
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.finetune import dataset, evaluate, model, tokenize_rows
from onecard.tasks.finetune.configs import Settings
from onecard.tasks.finetune.tokenize_rows import TokenizedExample, render
from onecard.units import size

LARGE = 10**9
"""Weights from which the merged model is kept in bf16: fp32 of 8B would take 32 GB."""
NOISE_NATS = {"f16": 0.01, "adapter": 0.01, "q8_0": 0.02}
"""Nats a token of the reference answers that an export may lose against the merged model before it
is refused, where the paired test shows the loss too. Narrower widths are not refused: what they
lose is told.
Words are told only: a small model's greedy answer flips at a rounding, and all that follows with
it."""
SCORED_TOKENS = 32
"""Of each reference answer, how many tokens an engine is asked for: one request each."""


@dataclass
class Exported:
    files: list[Path] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    """who -> item -> nats a token of its reference answer's first tokens."""
    references: list[TokenizedExample] = field(default_factory=list)
    """Those first tokens, as labels."""


def export(settings: Settings, run: Run) -> Result:
    """Merge and convert the adapter of a finished training again, as `quants` says.

    Raises NotFound, SettingsError, DataError.
    """
    if not settings.run_id:
        raise SettingsError(
            "there is no run to export",
            why="no RUN was named",
            fix="onecard finetune export RUN --quants q4_k_m",
        )
    checkpoints.quiet()
    adapter = evaluate.adapter_of(settings.run_id)
    folder = Path(json.loads((adapter / "base.json").read_text(encoding="utf-8"))["folder"])
    held = (
        dataset.read(adapter.parent / "held_out.jsonl").samples
        if (adapter.parent / "held_out.jsonl").exists()
        else []
    )
    out = Path(settings.output_dir).expanduser() if settings.output_dir else adapter.parent
    if out != adapter.parent:
        shutil.copytree(adapter, out / "adapter", dirs_exist_ok=True)
    made = everything(
        None,
        model.tokenizer_of(adapter),
        folder,
        out,
        evaluate.Answers(held[: settings.generate_items], settings.max_new_tokens),
        settings,
        run,
    )
    run.scores(made.metrics, verdicts=made.verdicts)
    return Result(
        {"files": [str(p) for p in made.files], "verdicts": made.verdicts, "metrics": made.metrics},
        "\n".join([*made.verdicts, *(f"made {path}: {size(_bytes(path))}" for path in made.files)]),
    )


def everything(
    tuned: Any,
    tokenizer: Any,
    folder: Path,
    out: Path,
    answers: evaluate.Answers,
    settings: Settings,
    run: Run,
) -> Exported:
    """All files of a training in `out`, each scored on the same questions.

    Raises DataError where an export changed the answers.
    """
    done = Exported([out / "adapter"])
    quants = [quant.lower() for quant in settings.quants if quant.lower() != "none"]
    if unknown := [quant for quant in quants if quant not in quantize.MIXTURES]:
        raise not_found("quantization", unknown[0], [*quantize.MIXTURES, "none"])
    if not quants:
        return done
    del tuned
    gc.collect()
    merged = merge(folder, out / "adapter", out / "merged", tokenizer, run.reporter)
    done.files.append(merged)
    if answers.items:
        net = AutoModelForCausalLM.from_pretrained(
            merged, dtype=torch.float32 if _small(merged) else torch.bfloat16
        )
        done.answers["merged"] = _generate(net, tokenizer, answers, run.reporter)
        done.references = evaluate.first_tokens(
            [tokenize_rows.encode(tokenizer, item) for item in answers.items], SCORED_TOKENS
        )
        done.losses["merged"] = dict(
            zip(
                (item.where for item in done.references),
                model.losses(net, done.references, tokens=1),
                strict=True,
            )
        )
        done.metrics["merged_file_loss"] = stats.mean_interval(
            list(done.losses["merged"].values())
        ).as_dict()
        del net
        gc.collect()
    plain = out / "gguf" / "model-f16.gguf"
    gguf.to_gguf(merged, plain, "f16", run.reporter)
    for quant in quants:
        path = out / "gguf" / f"model-{quant}.gguf"
        if quant != "f16":
            quantize.quantize(plain, path, quant, run.reporter)
        done.files.append(path)
        _score(done, quant, path, answers, run, tokenizer)
    base = base_gguf(folder, run.reporter)
    if answers.items:
        _score(done, "base", base, answers, run, tokenizer)
    if settings.adapter_gguf and not settings.use_dora:
        path = out / "gguf" / "adapter-f16.lora"
        gguf.lora_to_gguf(out / "adapter", folder, path, run.reporter)
        done.files.append(path)
        _score(done, "adapter", base, answers, run, tokenizer, path)
    if "f16" not in quants:
        plain.unlink()
    _judge(done, answers)
    best = next(
        (out / "gguf" / f"model-{q}.gguf" for q in ("q8_0", "q4_k_m", "f16") if q in quants),
        done.files[2],
    )
    fsio.write_text(out / "gguf" / "Modelfile", modelfile(best, tokenizer))
    run.artifact("result.json", json.dumps({"model": str(best.resolve())}))
    return done


def merge(folder: Path, adapter: Path, target: Path, tokenizer: Any, reporter: Reporter) -> Path:
    """The adapter added into weights of full width (never into 4-bit ones: rounding would eat it).

    Raises DataError.
    """
    if shutil.disk_usage(adapter).free < 2 * _bytes(folder):
        raise DataError(
            f"{target} has no room",
            why=f"the merged model and its GGUF take about {size(2 * _bytes(folder))}",
            fix="free some disk space; then onecard finetune export RUN",
        )
    reporter.line("merging the adapter")
    net: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32 if _small(folder) else torch.bfloat16
    )
    net = PeftModel.from_pretrained(net, adapter).merge_and_unload(safe_merge=True)
    if target.exists():
        shutil.rmtree(target)
    draft = target.with_name(target.name + ".part")
    net.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(target)
    return target


def base_gguf(folder: Path, reporter: Reporter) -> Path:
    """The untouched base in f16, made once and kept in the cache: what the adapter lies on, and
    what answers are compared with."""
    path = paths.home() / "dense" / "gguf" / f"{folder.name}-f16.gguf"
    if not path.exists():
        gguf.to_gguf(folder, path, "f16", reporter)
    return path


def _generate(
    net: Any, tokenizer: Any, answers: evaluate.Answers, reporter: Reporter
) -> dict[str, str]:
    """Greedy answers of the merged model in torch: what exports are held against."""
    out = {}
    with reporter.progress("answers of merged", len(answers.items)) as bar, torch.inference_mode():
        for item in answers.items:
            ids = tokenizer(
                render(tokenizer, item.messages[:-1], ask=True),
                add_special_tokens=False,
                return_tensors="pt",
            )["input_ids"]
            made = net.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=answers.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
            out[item.where] = tokenizer.decode(
                made[0, ids.shape[1] :], skip_special_tokens=True
            ).strip()
            bar.step()
    return out


def _score(
    done: Exported,
    who: str,
    path: Path,
    answers: evaluate.Answers,
    run: Run,
    tokenizer: Any,
    adapter: Path | None = None,
) -> None:
    if not answers.items:
        return
    layers = -1 if run.plan.device.type == "cuda" and run.plan.device.real else 0
    with LlamaCpp(
        path, reporter=run.reporter, n_ctx=4096, n_gpu_layers=999 if layers else 0, adapter=adapter
    ) as engine:
        if who not in ("base", "adapter"):
            template_parity(engine, tokenizer, answers.items[0].messages[:-1], path)
        done.answers[who] = evaluate.ask_all(engine, answers, run.reporter, who)
        done.losses[who] = evaluate.engine_losses(engine, done.references, run.reporter, who)
    done.metrics[f"{who}_file_loss"] = stats.mean_interval(
        list(done.losses[who].values())
    ).as_dict()
    for name, scores in evaluate.in_words(done.answers[who], answers.items).items():
        done.metrics[f"{who}_{name}"] = stats.mean_interval(list(scores.values())).as_dict()


def template_parity(engine: LlamaCpp, tokenizer: Any, messages: Any, path: Path) -> None:
    """Raises DataError where the file's template writes a talk otherwise than the one that was
    trained with."""
    reply = httpx.post(
        f"{engine.base_url.removesuffix('/v1')}/apply-template",
        json={"messages": list(messages)},
        headers={"Authorization": f"Bearer {engine.api_key}"},
        timeout=60,
    )
    if reply.status_code != 200:
        return
    mine, theirs = render(tokenizer, messages, ask=True), str(reply.json().get("prompt", ""))
    if mine.strip() != theirs.strip():
        raise DataError(
            f"the chat template of {path.name} differs from the one trained with",
            why=f"it writes {theirs[:80]!r}, training wrote {mine[:80]!r}",
            fix="convert with the tokenizer of the adapter's folder: onecard finetune export RUN",
        )


def _judge(done: Exported, answers: evaluate.Answers) -> None:
    """Tuned against base in words, and each file against the merged model.

    Raises DataError where an export changed the answers.
    """
    if not answers.items:
        return
    scores = {
        who: evaluate.in_words(said, answers.items)["f1"] for who, said in done.answers.items()
    }
    done.metrics["merged_f1"] = stats.mean_interval(list(scores["merged"].values())).as_dict()
    done.verdicts.append(
        "held-out answers, word F1, base to tuned: "
        f"{stats.compare(scores['base'], scores['merged']).render()}"
    )
    for who in scores:
        if who in ("base", "merged"):
            continue
        held = stats.compare(done.losses["merged"], done.losses[who], higher_is_better=False)
        equal = sum(
            done.answers[who][key].split() == done.answers["merged"][key].split()
            for key in done.answers["merged"]
        )
        done.verdicts.append(
            f"{who} against merged, loss of the answers' first tokens: {held.render()}; word F1 "
            f"{stats.compare(scores['merged'], scores[who]).render()}; {equal} of {held.delta.n} "
            "answers are the same to the word"
        )
        if held.verdict == "worse" and held.delta.value > NOISE_NATS.get(who, 100.0):
            raise DataError(
                f"the export to {who} changed the answers",
                why=held.render(),
                fix="keep the adapter and the merged folder, which are whole; tell us the model's "
                "architecture",
            )


def modelfile(path: Path, tokenizer: Any) -> str:
    """For `ollama create`: the file, and where an answer ends.

    Ollama reads the template from the GGUF itself.
    """
    return (
        f"FROM ./{path.name}\nPARAMETER temperature 0\nPARAMETER stop "
        f"{json.dumps(tokenizer.eos_token)}\n"
    )


def _small(folder: Path) -> bool:
    return _bytes(folder) < 4 * LARGE


def _bytes(path: Path) -> int:
    return (
        sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        if path.is_dir()
        else path.stat().st_size
    )
