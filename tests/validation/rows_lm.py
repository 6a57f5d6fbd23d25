"""How a row of a language model is planned: inference by llama.cpp, transformers or AWQ kernels,
and training steps with their trainers' defaults."""

import re

from validation.rows import Cannot, Row, format_of

from onecard.memory import calibration
from onecard.memory.architectures import lm
from onecard.memory.estimators import llm_inference, training
from onecard.memory.plan import Term
from onecard.units import MIB

CONTEXT_BYTES = 141 * MIB
"""A CUDA context of torch on a T4, as that data set's own rows say; counted in `reserved` where a
row says process."""
DEVICE_BYTES = 1200 * MIB
"""What the driver shows beyond llama.cpp's buffers: 700 to 1270 MiB in MEMORY-NOTES.md, section 3,
with a desktop."""


def plan(row: Row) -> int:
    """The bytes of what the row measured. Raises Cannot, NotFound."""
    tuned = row["workload"] in ("lora", "qlora", "full-ft")
    terms = _tune(row) if tuned else _infer(row)
    part = {"weights": ("weights",), "kv": ("KV cache",), "compute": ("compute",)}.get(
        row["component"]
    )
    if part:
        return sum(term.bytes for term in terms if term.name in part)
    total = sum(term.bytes for term in terms)
    if tuned and row["kind"] in ("reserved", "claimed"):
        model = lm.find(row["model"])
        total += training.fragments(model, recipe(row, model)).bytes + (
            CONTEXT_BYTES if "process" in row.said else 0
        )
    if (
        tuned and row["kind"] == "claimed" and "torchtune" not in row["source"].lower()
    ):  # a figure without its counter is the driver's; torchtune prints torch's
        total += calibration.CUDA_CONTEXT_BYTES
    return (
        total + DEVICE_BYTES
        if row["kind"] == "nvidia-smi" or "page header says" in row.said
        else total
    )


def _infer(row: Row) -> list[Term]:
    model = lm.find(
        re.sub(r"\s*\(.*", "", row["model"])
    )  # "Qwen3-Coder (26/49 layers on GPU)" says more than the name
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
    return llm_inference.transformers(
        model,
        form,
        prompt,
        made,
        B=row.number("batch", 1),
        kv_type=row["kv_type"].split("/")[0] or "f16",
        old_cache="dynamiccache" not in said,
    )


def _llamacpp(row: Row, model: lm.LM, component: str) -> list[Term]:
    said = row.said
    if row["other_config"].startswith("tier=C"):
        raise Cannot("the row is too loose to be planned")
    form = (
        "f16"
        if component in ("kv", "compute") and not row["weights_format"]
        else "q4_k_m"
        if component in ("kv", "compute")
        else format_of(row["weights_format"])
    )
    T = row.number("seq_or_ctx")
    found = re.search(r"n_ubatch=(\d+)", said)
    parallel = re.search(r"-np (\d+)", said)
    new = bool(re.search(r"2026|\bb9\d{3}\b|--fit|unaccounted|hybrid", said))
    if False:
        raise Cannot(
            "llama.cpp's buffers for latent attention differ by build and are not modelled"
        )
    offload = re.search(r"(\d+)/(\d+) layers|offload (\d+)/(\d+)", said)
    kv = row["kv_type"].lower()
    k_type, v_type = (
        ("f16", "")
        if not kv
        else (kv.removeprefix("k="), "f16")
        if kv.startswith("k=")
        else (kv, "")
    )
    terms = llm_inference.llamacpp(
        model,
        form,
        T,
        k_type=k_type,
        v_type=v_type,
        n_ubatch=int(found[1]) if found else 512,
        n_parallel=int(parallel[1]) if parallel else 1,
        place=llm_inference.Placement(
            int(offload[1] or offload[3]) if offload else -1,
            10**4 if "experts on cpu" in row["weights_format"].lower() else 0,
        ),
        whole_window="swa-full" in said or "full-size swa" in said,
        build="server" if new else "before" if "fa on" in said else "fa-off",
    )
    if component == "kv" and (
        "swa cache" in row["seq_or_ctx"].lower() or "global layers only" in said
    ):
        part = 1 if "swa cache" in row["seq_or_ctx"].lower() else 0
        parallel_n = int(parallel[1]) if parallel else 1
        layers = [x for x in model.layers if bool(x.window) == bool(part)]
        return [
            Term(
                "KV cache",
                round(
                    sum(llm_inference.cells(x, T, 512, parallel_n) * x.kv_values for x in layers)
                    * llm_inference.KV_BYTES[k_type]
                ),
                "part",
            )
        ]
    return terms


def _tune(row: Row) -> list[Term]:
    model = lm.find(row["model"])
    return training.step(model, recipe(row, model))


def recipe(row: Row, model: lm.LM) -> training.Recipe:
    """What the row trains and how, with the defaults of the trainer it comes from.

    Raises Cannot.
    """
    said, form = row.said, format_of(row["weights_format"])
    text = row["seq_or_ctx"].lower()
    T = row.number("seq_or_ctx")
    if not T or "max ctx" in text or "unpacked" in said:
        raise Cannot("the row gives no length of its samples")
    quantized = row["workload"] == "qlora"
    peft = "fp16" in said or "fp16 compute" in said or "paged" in row["optimizer"].lower()
    rest = (
        quantized
        and row["grad_ckpt"] == "True"
        and "deepspeed" not in said
        and "cumulative" not in said
        and "torch.compile" not in said
        and "gptq" not in form
    )
    optimizer = (
        row["optimizer"]
        .lower()
        .replace(" (torch)", "")
        .replace("_", "-")
        .replace("pagedadamw8bit", "paged-adamw-8bit")
        .replace("8-bit adamw", "adamw-8bit")
    )
    optimizer = {
        "paged-adamw-8bit, optimizer-in-backward": "paged-adamw-8bit",
        "adamw (script default)": "adamw",
    }.get(optimizer, optimizer) or "adamw"
    attention = (
        "eager"
        if row["attention"].lower().startswith("eager")
        else "flash"
        if "flash" in row["attention"].lower()
        else "sdpa"
    )
    litgpt, trainer = (
        "litgpt" in row["source"].lower(),
        "deepspeed zero" in said,
        # scripts with DeepSpeed run under transformers' Trainer, in fp16 without autocast: the loss
        # too
    )
    return training.Recipe(
        method="full" if row["workload"] == "full-ft" else row["workload"],
        weights=form,
        B=row.number("batch", 1),
        T=T,
        r=row.number("lora_rank", 16),
        targets=_targets(row["targets"]),
        optimizer=optimizer if optimizer in training.OPTIMIZER else "adamw",
        checkpointing=row["grad_ckpt"] == "True",
        attention=attention,  # type: ignore[arg-type]
        rest_fp32=rest,
        adapter_fp32=peft or "bf16-true" not in said,
        loss="chunked"
        if re.search(r"chunked ce|\+activation|in backward|8-bit adamw|on top|torch.compile", said)
        else "plain"
        if "no activation checkpointing" in said or "trainable " in said or trainer
        else "upcast",
        optimizer_in_backward="optimizer in backward" in said
        or "optimizer-in-backward" in row["optimizer"].lower(),
        deepspeed=trainer,
        compiled="cumulative" in said and "baseline" not in said and "+packed" not in said,
        keeps_logits=not trainer,
        dropout=litgpt,
        keeps_inputs=litgpt and quantized,
        untied=litgpt,
    )


def _targets(text: str) -> tuple[str, ...]:
    names = {
        "q": "q",
        "query": "q",
        "k": "k",
        "key": "k",
        "v": "v",
        "value": "v",
        "o": "o",
        "projection": "o",
        "gate": "gate",
        "up": "up",
        "down": "down",
        "head": "head",
    }
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
    return tuple(dict.fromkeys(out)) or training.ALL_LINEAR
