"""Holds the plan against published measurements: a CSV row is planned as a user would give it, like is compared with like. Knows no row by name.

Columns: those of ../shared/truth/README.md. Allocated, reserved and nvidia-smi are three predictions: the allocator's peak, with its segments, with the context.
"""

import csv
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound, OneCardError
from onecard.memory import infer, lm, train, weights
from onecard.memory.plan import Term
from onecard.screen import Answer, table
from onecard.units import GIB, MIB, size

UNITS = {"MiB": MIB, "GiB": GIB, "GB": 10**9, "MB": 10**6}
CONTEXT_BYTES = 141 * MIB
"""A CUDA context of torch on a T4, as that data set's own rows say; counted in `reserved` where a row says process."""
DEVICE_BYTES = 1000 * MIB
"""What the driver shows beyond llama.cpp's buffers: 700 to 1270 MiB in MEMORY-NOTES.md, section 3, with a desktop."""
FORMATS = {"bf16": "bf16", "fp16": "fp16", "f16": "f16", "fp32": "fp32", "16bit": "bf16", "fp8": "fp8", "int8": "int8", "int4": "int4", "nf4": "nf4", "nf4-dq": "nf4-dq", "gptq-int4": "gptq-int4",
           "gptq-int8": "gptq-int8", "awq-int4": "awq-int4", "awq-4bit-32g": "awq-int4-32g", "awq-4bit-128g": "awq-int4", "gptq-4bit-32g-actorder": "gptq-int4-32g",
           "gptq-4bit-128g-actorder": "gptq-int4", "gptq-4bit-128g": "gptq-int4", "bnb nf4/fp4 4-bit": "nf4", "load_in_4bit nf4": "nf4", "8bit": "int8", "4bit": "nf4"}


TUNED = ("lora", "qlora", "full-ft")


class Cannot(Exception):
    """A row that says too little to be planned, or of a model that is not known."""


@dataclass(frozen=True)
class Row:
    """One line of the file."""

    values: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return (self.values.get(name) or "").strip()

    @property
    def said(self) -> str:
        """All that is said in words, lower case."""
        return f"{self['other_config']};{self['attention']};{self['grad_ckpt']}".lower()

    @property
    def tier(self) -> str:
        return str((re.findall(r"tier=([abc])", self.said) or ["?"])[0]).upper()

    def number(self, name: str, default: int = 0) -> int:
        found = re.search(r"\d+", self[name].replace(",", ""))
        return int(found[0]) if found else default

    @property
    def measured_bytes(self) -> int:
        try:
            return round(float(self["measured_value"].replace(",", "")) * UNITS[self["unit"]])
        except (ValueError, KeyError):
            raise Cannot(f"the measurement '{self['measured_value']} {self['unit']}' is no size") from None


def read(path: Path) -> Iterator[Row]:
    """Raises NotFound, DataError."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}", why="nothing lies at that path", fix="check the path")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [Row({k: v for k, v in row.items() if k and isinstance(v, str)}) for row in csv.DictReader(file)]
    except (csv.Error, UnicodeDecodeError) as fault:
        raise DataError(f"{path} is no CSV", why=str(fault), fix="save it as CSV in UTF-8") from None
    if not rows or "workload" not in rows[0].values:
        raise DataError(f"{path} has no rows to plan", why="its head line lacks 'workload'", fix="give a file with the columns of a truth table")
    yield from rows


def bench(path: Path) -> Answer:
    """Every row with its planned and measured bytes, then each workload's errors."""
    rows = [_judged(row) for row in read(path)]
    counted = [row for row in rows if row["tier"] in "AB"]
    groups: dict[str, Callable[[dict[str, Any]], bool]] = {"allocated and log": lambda r: r["kind"] in ("allocated", "log"), "reserved, nvidia-smi, claimed": lambda r: r["kind"] not in ("allocated", "log"),
                                                           "all": lambda r: True}
    groups |= {f"{name}": (lambda r, name=name: r["workload"] == name) for name in sorted({row["workload"] for row in rows})}  # type: ignore[misc]
    summary = {name: _summary([row for row in counted if keep(row)]) for name, keep in groups.items()}
    cells = [[r["id"], r["kind"], r["component"], size(r["planned_bytes"]) if r["planned_bytes"] else "cannot", size(r["measured_bytes"]), f"{r['error']:+.1%}" if r["error"] is not None else r["cannot"]] for r in rows]
    shown = [[name, str(s["count"]), f"{s['planned_share']:.0%}", *(f"{s[k]:.1%}" if s[k] is not None else "–" for k in ("median", "p90", "under_5"))] for name, s in summary.items()]
    text = table(cells, ["id", "kind", "component", "planned", "measured", "error"]) + "\n\n" + table(shown, ["tiers A and B", "rows", "planned", "median error", "90 % within", "under by more than 5 %"])
    return Answer({"rows": rows, "summary": summary}, text)


def _judged(row: Row) -> dict[str, Any]:
    out: dict[str, Any] = {"id": row["id"], "workload": row["workload"], "tier": row.tier, "kind": row["kind"], "component": row["component"], "planned_bytes": None, "measured_bytes": None, "error": None, "cannot": ""}
    try:
        out["measured_bytes"] = row.measured_bytes
        planned = predict(row)
        out |= {"planned_bytes": planned, "error": planned / row.measured_bytes - 1}
    except Cannot as fault:
        out["cannot"] = str(fault)
    except OneCardError as fault:
        out["cannot"] = f"{fault.what}: {fault.why}"
    out["measured_bytes"] = out["measured_bytes"] or 0
    return out


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = sorted(abs(row["error"]) for row in rows if row["error"] is not None)
    under = sum(row["error"] < -0.05 for row in rows if row["error"] is not None)
    if not errors:
        return {"count": len(rows), "planned_share": 0.0, "median": None, "p90": None, "under_5": None}
    return {"count": len(rows), "planned_share": len(errors) / len(rows), "median": statistics.median(errors), "p90": errors[min(int(len(errors) * 0.9), len(errors) - 1)], "under_5": under / len(errors)}


def predict(row: Row) -> int:
    """The planned bytes of what the row measured. Raises Cannot, NotFound."""
    planner = {"llm-infer": _infer, "lora": _tune, "qlora": _tune, "full-ft": _tune}.get(row["workload"])
    if planner is None:
        raise Cannot(f"the workload {row['workload']} is not planned yet")
    terms = planner(row)
    part = {"weights": ("weights",), "kv": ("KV cache",), "compute": ("compute",)}.get(row["component"])
    if part:
        return sum(term.bytes for term in terms if term.name in part)
    total = sum(term.bytes for term in terms)
    if row["workload"] in TUNED and row["kind"] in ("reserved", "claimed"):
        model = lm.find(row["model"])
        total += train.fragments(model, recipe(row, model)).bytes + (CONTEXT_BYTES if "process" in row.said else 0)
    if row["kind"] == "nvidia-smi":
        return total + DEVICE_BYTES
    return total


def format_of(name: str) -> str:
    """The weights' format as onecard names it. Raises Cannot."""
    bare = name.lower().removeprefix("gguf ").strip().replace("torchao", "").strip()
    if bare in FORMATS:
        return FORMATS[bare]
    if weights.known(bare):
        return bare
    if found := re.match(r"exl2-([\d.]+)b?$", bare):
        return f"exl2-{float(found[1])}"
    if found := re.match(r"(ud-)?(i?q\d_k?_?[a-z0-9]*)", bare):
        kind = found[2].replace("_xl", "_m").replace("_l", "") if found[2] not in weights.MIXTURES else found[2]
        if kind in weights.MIXTURES and not found[1]:
            return kind
    raise Cannot(f"the format '{name}' is not known" if name else "the row names no format of the weights")


def _infer(row: Row) -> list[Term]:
    model = lm.find(re.sub(r"\s*\(.*", "", row["model"]))  # "Qwen3-Coder (26/49 layers on GPU)" says more than the name
    component, said = row["component"], row.said
    if "llama.cpp" in said or row["weights_format"].lower().startswith("gguf"):
        return _llamacpp(row, model, component)
    form = format_of(row["weights_format"])
    numbers = [int(n) for n in re.findall(r"\d+", row["seq_or_ctx"])]
    text = row["seq_or_ctx"].lower()
    if "in +" in text:
        prompt, made = numbers[0], numbers[1]
    elif "prefill" in text:
        prompt, made = numbers[0], 512  # our own default length of an answer
    elif "encode" in text:
        prompt, made = numbers[0], 1
    else:
        prompt, made = 1, (numbers[0] if numbers else 50)
    return infer.transformers(model, form, prompt, made, B=row.number("batch", 1), kv_type=row["kv_type"].split("/")[0] or "f16", old_cache="dynamiccache" not in said)


def _llamacpp(row: Row, model: lm.LM, component: str) -> list[Term]:
    said = row.said
    if row["other_config"].startswith("tier=C"):
        raise Cannot("the row is too loose to be planned")
    form = "f16" if component in ("kv", "compute") and not row["weights_format"] else "q4_k_m" if component in ("kv", "compute") else format_of(row["weights_format"])
    T = row.number("seq_or_ctx")
    found = re.search(r"n_ubatch=(\d+)", said)
    parallel = re.search(r"-np (\d+)", said)
    new = bool(re.search(r"2026|\bb9\d{3}\b|--fit|unaccounted|hybrid", said))
    if model.kv_rank and component == "compute":
        raise Cannot("llama.cpp's buffers for latent attention differ by build and are not modelled")
    offload = re.search(r"(\d+)/(\d+) layers|offload (\d+)/(\d+)", said)
    kv = row["kv_type"].lower()
    k_type, v_type = ("f16", "") if not kv else (kv.removeprefix("k="), "f16") if kv.startswith("k=") else (kv, "")
    terms = infer.llamacpp(model, form, T, k_type=k_type, v_type=v_type, n_ubatch=int(found[1]) if found else 512, n_parallel=int(parallel[1]) if parallel else 1,
                           n_gpu_layers=int(offload[1] or offload[3]) if offload else -1, experts_on_cpu="experts on cpu" in row["weights_format"].lower(),
                           whole_window="swa-full" in said or "full-size swa" in said, build="now" if new else "2025" if "fa on" in said else "fa-off")
    if component == "kv" and ("swa cache" in row["seq_or_ctx"].lower() or "global layers only" in said):
        part = 1 if "swa cache" in row["seq_or_ctx"].lower() else 0
        layers, cells = infer.kv_layers(model, T, 512, int(parallel[1]) if parallel else 1)[part]
        return [Term("KV cache", round(layers * cells * model.kv_values * infer.KV_BYTES[k_type]), "one part of it")]
    return terms


def _tune(row: Row) -> list[Term]:
    model = lm.find(row["model"])
    return train.step(model, recipe(row, model))


def recipe(row: Row, model: lm.LM) -> train.Recipe:
    """What the row trains and how, with the defaults of the trainer it comes from. Raises Cannot."""
    said, form = row.said, format_of(row["weights_format"])
    text = row["seq_or_ctx"].lower()
    T = row.number("seq_or_ctx")
    if not T or "max ctx" in text:
        raise Cannot("the row gives no length of its samples")
    quantized = row["workload"] == "qlora"
    peft = "fp16" in said or "fp16 compute" in said or "paged" in row["optimizer"].lower()
    rest = quantized and row["grad_ckpt"] == "True" and "deepspeed" not in said and "cumulative" not in said and "torch.compile" not in said and "gptq" not in form
    optimizer = row["optimizer"].lower().replace(" (torch)", "").replace("_", "-").replace("pagedadamw8bit", "paged-adamw-8bit").replace("8-bit adamw", "adamw-8bit")
    optimizer = {"paged-adamw-8bit, optimizer-in-backward": "paged-adamw-8bit", "adamw (script default)": "adamw"}.get(optimizer, optimizer) or "adamw"
    attention = "eager" if row["attention"].lower().startswith("eager") else "flash" if "flash" in row["attention"].lower() else "sdpa"
    return train.Recipe(method={"full-ft": "full", "lora": "lora", "qlora": "qlora"}[row["workload"]], weights=form, B=row.number("batch", 1), T=T, r=row.number("lora_rank", 16),  # type: ignore[arg-type]
                        targets=_targets(row["targets"]), optimizer=optimizer if optimizer in train.OPTIMIZER else "adamw", checkpointing=row["grad_ckpt"] == "True", attention=attention,  # type: ignore[arg-type]
                        rest_fp32=rest, adapter_fp32=peft or "bf16-true" not in said, loss="chunked" if re.search(r"chunked ce|\+activation|in backward|8-bit adamw|on top|torch.compile", said) else "plain" if "no activation checkpointing" in said or "trainable " in said else "upcast", optimizer_in_backward="optimizer in backward" in said or "optimizer-in-backward" in row["optimizer"].lower())


def _targets(text: str) -> tuple[str, ...]:
    names = {"q": "q", "query": "q", "k": "k", "key": "k", "v": "v", "value": "v", "o": "o", "projection": "o", "gate": "gate", "up": "up", "down": "down", "head": "head"}
    out: list[str] = []
    for word in re.split(r"[+, ]+", text.lower().replace("_proj", "")):
        if word in names:
            out.append(names[word])
        elif word == "mlp":
            out += ["gate", "up", "down"]
        elif word == "c_attn":
            out += ["q", "k", "v"]
        elif word == "c":  # c_proj names both the attention's and the feed-forward's last matrix
            out += ["o", "down"]
        elif word == "w1":
            out += ["gate"]
        elif word == "w2":
            out += ["up"]
    return tuple(dict.fromkeys(out)) or train.ALL_LINEAR
