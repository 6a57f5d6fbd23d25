"""onecard finetune export: a trained adapter as files that others open. Merged safetensors, GGUF in
several widths, a GGUF of the adapter and an Ollama Modelfile; each is asked the same questions."""

import gc
import json
import shutil
from collections.abc import Mapping
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
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run, fingerprint
from onecard.tasks.finetune import dataset, model, scoring, tokenization
from onecard.tasks.finetune.configs import ExportConfig, ExportFormatConfig
from onecard.tasks.finetune.scoring import GenerationSet
from onecard.tasks.finetune.tokenization import TokenizedExample, render
from onecard.units import size

MAX_FP32_BYTES = 4 * 10**9
"""Weights up to this size are merged in fp32, larger ones in bf16: an 8B model in fp32 would take
32 GB."""
MAX_LOSS_NATS = {"f16": 0.01, "adapter": 0.01, "q8_0": 0.02}
"""Nats a token of the reference answers that an export may lose against the merged model before it
is refused, where the paired test shows the loss too. Narrower widths are never refused: what they
lose is reported. Generated words are reported only: the greedy answer of a small model flips at a
rounding, and all that follows with it."""
SCORED_TOKENS = 32
"""Of each reference answer, how many tokens an engine is asked for: one request each."""
DEFAULT_QUANTS = ("q8_0", "q4_k_m", "f16")
"""The file that the Modelfile names and chat opens: the first of these that was made."""


@dataclass
class Exports:
    """The files written, and what each answered (model name -> ...)."""

    files: list[Path] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    """name -> source -> nats a token of the reference answer's first tokens."""


def export(config: ExportConfig, run: Run) -> Result:
    """Merge and convert the adapter of a finished training again, as `quants` says.

    Raises NotFound, SettingsError, DataError.
    """
    if not config.run_id:
        raise SettingsError(
            "there is no run to export",
            why="no RUN was named",
            fix="onecard finetune export RUN --quants q4_k_m",
        )
    adapter = scoring.find_adapter(config.run_id)
    held_out = adapter.parent / "held_out.jsonl"
    samples = dataset.read(held_out).samples if held_out.exists() else []
    out = adapter.parent
    if config.output_dir:
        out = Path(config.output_dir).expanduser()
        shutil.copytree(adapter, out / "adapter", dirs_exist_ok=True)
    tokenizer, base = model.load_tokenizer(adapter), scoring.base_folder(adapter)
    exports = export_all(
        tokenizer,
        base,
        out,
        scoring.generation_set(
            samples, tokenizer, base, config.generate_items, config.max_new_tokens
        ),
        config,
        run,
    )
    run.scores(exports.metrics, verdicts=exports.verdicts)
    lines = [*exports.verdicts]
    lines += [f"wrote {path}: {size(fsio.disk_bytes(path))}" for path in exports.files]
    return Result(
        {
            "files": [str(path) for path in exports.files],
            "verdicts": exports.verdicts,
            "metrics": exports.metrics,
        },
        "\n".join(lines),
    )


def export_all(
    tokenizer: Any,
    base_folder: Path,
    out: Path,
    questions: GenerationSet,
    config: ExportFormatConfig,
    run: Run,
) -> Exports:
    """All files of the adapter in `out`, each scored on the same questions.

    Raises NotFound, DataError where an export changed the model.
    """
    exports = Exports([out / "adapter"])
    quants = require_quants(config.quants)
    if not quants:
        return exports
    gc.collect()
    # 1. merged safetensors: what every other file is compared with
    merged = merge(base_folder, out / "adapter", out / "merged", tokenizer, run.reporter)
    exports.files.append(merged)
    scorer = _ExportScorer(exports, tokenizer, questions, run)
    scorer.score_merged(merged)
    # 2. GGUF in each width
    f16 = out / "gguf" / "model-f16.gguf"
    gguf.to_gguf(merged, f16, "f16", run.reporter)
    gguf_files = {quant: out / "gguf" / f"model-{quant}.gguf" for quant in quants}
    for quant, path in gguf_files.items():
        if quant != "f16":
            quantize.quantize(f16, path, quant, run.reporter)
        exports.files.append(path)
        scorer.score_file(quant, path)
    # 3. the base alone, and with the adapter's own file on it
    base = base_gguf(base_folder, run.reporter)
    scorer.score_file("base", base, check_template=False)
    if config.adapter_gguf and not _is_dora(out / "adapter"):
        adapter = out / "gguf" / "adapter-f16.lora"
        gguf.lora_to_gguf(out / "adapter", base_folder, adapter, run.reporter)
        exports.files.append(adapter)
        scorer.score_file("adapter", base, adapter=adapter, check_template=False)
    if "f16" not in quants:
        f16.unlink()
    # 4. verdicts, and the file that chat opens
    scorer.compare()
    default = next((q for q in DEFAULT_QUANTS if q in gguf_files), quants[0])
    fsio.write_text(out / "gguf" / "Modelfile", modelfile(gguf_files[default], tokenizer))
    result = {"model": str(gguf_files[default].resolve())}
    run.artifact("result.json", json.dumps(result))
    return exports


def require_quants(quants: tuple[str, ...]) -> list[str]:
    """The quantizations that were named, without "none". Raises NotFound for an unknown one."""
    names = [quant.lower() for quant in quants if quant.lower() != "none"]
    if unknown := [name for name in names if name not in quantize.MIXTURES]:
        raise not_found("quantization", unknown[0], [*quantize.MIXTURES, "none"])
    return names


def merge(
    base_folder: Path, adapter: Path, target: Path, tokenizer: Any, reporter: Reporter
) -> Path:
    """The adapter added to the weights in full width; added to 4-bit weights, most of it would be
    rounded away.

    Raises DataError where the disk is too small.
    """
    needed = 2 * fsio.disk_bytes(base_folder)
    if shutil.disk_usage(adapter).free < needed:
        raise DataError(
            f"{target} has no room",
            why=f"the merged model and its GGUF take about {size(needed)}",
            fix="free some disk space; then onecard finetune export RUN",
        )
    reporter.line("merging the adapter")
    net: Any = AutoModelForCausalLM.from_pretrained(base_folder, dtype=_dtype(base_folder))
    net = PeftModel.from_pretrained(net, adapter).merge_and_unload(safe_merge=True)
    if target.exists():
        shutil.rmtree(target)
    draft = target.with_name(target.name + ".part")
    net.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(target)
    return target


def base_gguf(base_folder: Path, reporter: Reporter) -> Path:
    """The untouched base in f16, converted once and cached by its content: the adapter's file is
    laid on it, and answers are compared with its own. Many models lie in folders of one name
    (a run's is always called merged)."""
    content = fingerprint(base_folder)[:16]
    path = paths.home() / "dense" / "gguf" / f"{base_folder.name}-{content}-f16.gguf"
    if not path.exists():
        gguf.to_gguf(base_folder, path, "f16", reporter)
    return path


class _ExportScorer:
    """Asks each file the same questions, and compares it with the merged model. Without questions
    nothing is loaded."""

    def __init__(
        self, exports: Exports, tokenizer: Any, questions: GenerationSet, run: Run
    ) -> None:
        self.exports, self.tokenizer, self.questions, self.run = exports, tokenizer, questions, run
        self.references: list[TokenizedExample] = []

    def score_merged(self, merged: Path) -> None:
        """Answers and losses of the merged model in torch."""
        if not self.questions.samples:
            return
        examples = [tokenization.encode(self.tokenizer, s) for s in self.questions.samples]
        self.references = scoring.first_answer_tokens(examples, SCORED_TOKENS)
        net = AutoModelForCausalLM.from_pretrained(merged, dtype=_dtype(merged))
        answers = generate_in_torch(net, self.tokenizer, self.questions, self.run.reporter)
        losses = model.losses(net, self.references, tokens=1)
        sources = [example.source for example in self.references]
        self._keep("merged", answers, dict(zip(sources, losses, strict=True)))
        del net
        gc.collect()

    def score_file(
        self, name: str, path: Path, adapter: Path | None = None, check_template: bool = True
    ) -> None:
        """Answers and losses of a GGUF file in llama.cpp, with the adapter's file on it."""
        if not self.questions.samples:
            return
        device, reporter = self.run.plan.device, self.run.reporter
        layers = 999 if device.type == "cuda" and device.real else 0
        with LlamaCpp(
            path,
            reporter=reporter,
            n_ctx=scoring.ENGINE_CONTEXT,
            n_gpu_layers=layers,
            adapter=adapter,
        ) as engine:
            if check_template:
                messages = self.questions.samples[0].messages[:-1]
                template_parity(engine, self.tokenizer, messages, path)
            answers = scoring.generate_answers(engine, self.questions, reporter, name)
            losses = scoring.engine_losses(engine, self.references, reporter, name)
        self._keep(name, answers, losses)
        for metric, scores in scoring.text_scores(answers, self.questions.samples).items():
            interval = stats.metric_interval(metric, list(scores.values()))
            self.exports.metrics[f"{name}_{metric}"] = interval.as_dict()

    def _keep(self, name: str, answers: dict[str, str], losses: dict[str, float]) -> None:
        self.exports.answers[name], self.exports.losses[name] = answers, losses
        interval = stats.metric_interval("loss", list(losses.values()))
        self.exports.metrics[f"{name}_file_loss"] = interval.as_dict()

    def compare(self) -> None:
        """Verdicts: tuned against base by its answers, and each file against the merged model.

        Raises DataError where an export changed the model.
        """
        if not self.questions.samples:
            return
        f1 = {
            name: scoring.text_scores(answers, self.questions.samples)["f1"]
            for name, answers in self.exports.answers.items()
        }
        interval = stats.metric_interval("f1", list(f1["merged"].values()))
        self.exports.metrics["merged_f1"] = interval.as_dict()
        self.exports.verdicts.append(
            "held-out answers, word F1, base to tuned: "
            f"{self._compare('f1', f1['base'], f1['merged']).render()}"
        )
        files = [name for name in f1 if name not in ("base", "merged")]
        losses = self.exports.losses
        # the files are judged together: with many of them one would look changed by chance
        by_loss = stats.holm(
            {
                name: self._compare(
                    "loss", losses["merged"], losses[name], MAX_LOSS_NATS.get(name, 0.0)
                )
                for name in files
            }
        )
        by_f1 = stats.holm({n: self._compare("f1", f1["merged"], f1[n]) for n in files})
        for name in files:
            self._judge_file(name, by_loss[name], by_f1[name])

    def _compare(
        self,
        metric: str,
        old: Mapping[str, float],
        new: Mapping[str, float],
        margin: float | None = None,
    ) -> stats.Comparison:
        groups = scoring.independent_groups(self.questions.samples)
        return stats.compare_metric(metric, old, new, groups=groups, margin=margin)

    def _judge_file(self, name: str, loss: stats.Comparison, f1: stats.Comparison) -> None:
        answers = self.exports.answers
        n_equal = sum(
            answers[name][source].split() == text.split()
            for source, text in answers["merged"].items()
        )
        self.exports.verdicts.append(
            f"{name} against merged, loss of the answers' first tokens: {loss.render()}; word F1 "
            f"{f1.render()}; {n_equal} of {loss.delta.n} "
            "answers are the same to the word"
        )
        if name in MAX_LOSS_NATS and loss.verdict == stats.WORSE:
            raise DataError(
                f"the export to {name} changed the model",
                why=loss.render(),
                fix="keep the adapter and the merged folder, which are complete; report the "
                "model's architecture to onecard",
            )


@torch.inference_mode()
def generate_in_torch(
    net: Any, tokenizer: Any, questions: GenerationSet, reporter: Reporter
) -> dict[str, str]:
    """Greedy answers by the sample's source."""
    answers = {}
    with reporter.progress("answers of merged", len(questions.samples)) as bar:
        for sample in questions.samples:
            prompt = render(tokenizer, sample.messages[:-1], add_generation_prompt=True)
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
            output = net.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=questions.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
            answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            answers[sample.source] = answer.strip()
            bar.step()
    return answers


def template_parity(engine: LlamaCpp, tokenizer: Any, messages: Any, path: Path) -> None:
    """Raises DataError where the file's chat template renders a conversation differently from the
    tokenizer that was trained with."""
    reply = httpx.post(
        f"{engine.base_url.removesuffix('/v1')}/apply-template",
        json={"messages": list(messages)},
        headers={"Authorization": f"Bearer {engine.api_key}"},
        timeout=60,
    )
    if reply.status_code != 200:
        return
    trained = render(tokenizer, messages, add_generation_prompt=True)
    exported = str(reply.json().get("prompt", ""))
    if trained.strip() != exported.strip():
        raise DataError(
            f"the chat template of {path.name} differs from the one trained with",
            why=f"it renders {exported[:80]!r}, training rendered {trained[:80]!r}",
            fix="convert with the tokenizer of the adapter's folder: onecard finetune export RUN",
        )


def modelfile(path: Path, tokenizer: Any) -> str:
    """For `ollama create`: the file, and where an answer ends. Ollama reads the template from the
    GGUF itself."""
    stop = json.dumps(tokenization.end_mark(tokenizer) or tokenizer.eos_token)
    return f"FROM ./{path.name}\nPARAMETER temperature 0\nPARAMETER stop {stop}\n"


def _dtype(folder: Path) -> torch.dtype:
    return torch.float32 if fsio.disk_bytes(folder) < MAX_FP32_BYTES else torch.bfloat16


def _is_dora(adapter: Path) -> bool:
    """llama.cpp's adapter files hold no DoRA magnitudes."""
    values = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return bool(values.get("use_dora"))
