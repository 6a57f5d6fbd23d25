"""Writes what the plan knows of models by name.

python scripts/model_facts.py defaults                    what transformers' config classes take for
                                                          keys that a config leaves out
python scripts/model_facts.py models DATABASE CONFIGS     the table of names

DATABASE: the model list that the program llmfit carries (MIT; a JSON list of repositories with
their counts). CONFIGS: a folder of config.json files as OWNER--NAME_config.json (aiconfigurator,
Apache-2.0, holds about 100). Only facts are taken, and a row only where the weights counted from
its config equal the published number.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ROOT / "src/onecard/memory/architectures"
sys.path.insert(0, str(ROOT / "src"))

from onecard.errors import OneCardError  # noqa: E402
from onecard.memory.architectures import config_json  # noqa: E402
from onecard.memory.architectures.families import FAMILIES  # noqa: E402
from onecard.memory.architectures.model_names import canonical  # noqa: E402


def keys_that_are_read() -> set[str]:
    """Words in quotes in the builder's source: the keys that it asks for."""
    text = "".join((ARCHITECTURES / f"{n}.py").read_text() for n in ("config_json", "mixers"))
    return set(re.findall(r'"([a-z][a-z_0-9A-Z]+)"', text))


def defaults() -> None:
    from transformers import CONFIG_MAPPING

    read, out = keys_that_are_read(), {}
    for family in sorted(FAMILIES):
        if family not in CONFIG_MAPPING:
            print("no class:", family)
            continue
        values = CONFIG_MAPPING[family]().to_dict()
        out[family] = {
            key: value
            for key, value in sorted(values.items())
            if key in read and isinstance(value, int | float | bool) and key != "model_type"
        }
    path = ARCHITECTURES / "config_defaults.json"
    rows = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in out.items()]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


OFFICIAL = (
    *("Qwen/", "meta-llama/", "google/", "mistralai/", "microsoft/", "deepseek-ai/", "openai/"),
    *("HuggingFaceTB/", "ibm-granite/", "allenai/", "nvidia/", "tiiuae/", "LiquidAI/", "zai-org/"),
    *(
        "CohereLabs/",
        "LGAI-EXAONE/",
        "openai-community/",
        "EleutherAI/",
        "facebook/",
        "bigscience/",
    ),
    *("TinyLlama/", "01-ai/", "internlm/", "bigcode/", "stabilityai/", "tencent/", "baidu/"),
    *("ByteDance-Seed/", "swiss-ai/", "NousResearch/", "XiaomiMiMo/", "arcee-ai/", "moonshotai/"),
)
"""Whose name stands where two repositories of one name hold different models."""
NEEDS_MORE = (
    *("gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma4", "gemma4_text", "cohere2", "olmo3"),
    *("exaone4", "granitemoehybrid", "falcon_h1", "nemotron_h", "lfm2", "lfm2_moe", "bamba"),
    *("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next", "gpt_oss"),
    *("llama4", "deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite", "kimi_k2", "minicpm3"),
)
"""Families whose windows, states or ranks the database does not hold: only by their configs."""
FEWEST_DOWNLOADS = 200


def from_database(row: dict) -> dict:
    """A config.json's keys from a row of llmfit's database, which calls every feed-forward width
    moe_intermediate_size."""
    config = {
        "model_type": row["architecture"],
        "hidden_size": row["hidden_size"],
        "num_hidden_layers": row["num_hidden_layers"],
        "num_attention_heads": row["num_attention_heads"],
        "num_key_value_heads": row["num_key_value_heads"],
        "head_dim": row["head_dim"],
        "vocab_size": row["vocab_size"],
        "max_position_embeddings": row["context_length"],
        "sliding_window": None,
    }
    if row.get("num_experts"):
        config |= {
            "num_experts": row["num_experts"],
            "num_experts_per_tok": row.get("active_experts"),
            "moe_intermediate_size": row["moe_intermediate_size"],
            "shared_expert_intermediate_size": row.get("shared_expert_intermediate_size"),
        }
    else:
        config["intermediate_size"] = row["moe_intermediate_size"]
    return {k: v for k, v in config.items() if v is not None or k == "sliding_window"}


def verified(row: dict) -> dict | None:
    """The config whose count of weights is the published one, to one in 100,000."""
    # a class that ties by default does so though a file may hold the head twice
    for tied in (True,) if FAMILIES[row["architecture"]].tied else (False, True):
        for bias in ({}, {"attention_bias": True}):
            config = from_database(row) | {"tie_word_embeddings": tied} | bias
            try:
                counted = config_json.from_values(config, row["name"]).n_params
            except OneCardError:
                continue
            if abs(counted / row["parameters_raw"] - 1) < 1e-5:
                return config
    return None


def curated() -> tuple[list[tuple[list[str], dict]], dict[str, str]]:
    """(names, config) of scripts/model_configs.jsonl, short names beside those they stand for."""
    out, shared, short = [], {}, {}
    for line in (ROOT / "scripts/model_configs.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "shared" in row:
            shared = row["shared"]
            continue
        if "short" in row:
            short = row["short"]
            continue
        config = shared | row["config"]
        counted = config_json.from_values(config, row["names"][0]).n_params
        if row["params"] and abs(counted / row["params"] - 1) > 1e-6:
            print("differs:", row["names"][0], counted, row["params"])
        out.append((row["names"], config))
    return out, short


def shape(config: dict, any_table: bool = False) -> dict:
    """Without the longest context, which differs among tunings of one model."""
    out = {k: v for k, v in config.items() if k != "max_position_embeddings"}
    return {k: v for k, v in out.items() if not any_table or k != "vocab_size"}


def models(database: Path, configs: Path) -> None:
    """The table: curated configs first, then a folder of configs as published, then the rows of
    llmfit's database (a JSON list; MIT) whose counts agree."""
    read = keys_that_are_read()
    found: dict[str, dict] = {}
    rank: dict[str, int] = {}
    clashes: set[str] = set()

    def add(name: str, config: dict, level: int) -> None:
        key = canonical(name)
        if key in found and shape(found[key]) != shape(config):
            sizes = [c.get("vocab_size", 0) for c in (found[key], config)]
            close = min(sizes) > 0.99 * max(sizes)  # a table padded or not: the more used one
            if rank[key] == level and not (
                close and shape(found[key], True) == shape(config, True)
            ):
                clashes.add(key)
            return
        if key not in found:
            found[key], rank[key] = config, level

    named, short = curated()
    for names, config in named:
        for name in names:
            add(name, config, 0)
    for path in sorted(configs.glob("*_config.json")):
        values = config_json.language_part(json.loads(path.read_text()))
        name = path.name.removesuffix("_config.json").replace("--", "/")
        try:
            config_json.from_values(values, name)
        except OneCardError:
            continue
        config = {k: v for k, v in values.items() if k in read and k not in DROPPED}
        if config_json.stored_format(values) == "mxfp4":  # how these models are published at all
            config["quantization_config"] = {"quant_method": "mxfp4"}
        add(name, config, 1)
    rows = [r for r in json.loads(database.read_text()) if r.get("hidden_size")]
    for row in sorted(rows, key=lambda r: -r["hf_downloads"]):
        usable = row["architecture"] in FAMILIES and row["architecture"] not in NEEDS_MORE
        official = row["name"].startswith(OFFICIAL)
        # a word alone is no name of a model: others have it too
        sized = re.search(r"\d(?:\.\d+)?[bm](?![a-z])", canonical(row["name"]))
        used = official or (row["hf_downloads"] >= FEWEST_DOWNLOADS and sized)
        if usable and used and (config := verified(row)):
            add(row["name"], config, 2 if official else 3)
    for key in clashes:
        found.pop(key, None)
    for name, full in short.items():
        if canonical(full) in found:
            found[canonical(name)] = found[canonical(full)]
        else:
            print("a short name of nothing:", name, full)
    by_config: dict[str, list[str]] = {}
    for key, config in found.items():
        by_config.setdefault(json.dumps(config, sort_keys=True), []).append(key)
    lines = [
        f'{{"names": {json.dumps(sorted(keys))}, "config": {text}}}'
        for text, keys in sorted(by_config.items(), key=lambda item: min(item[1]))
    ]
    (ARCHITECTURES / "models.jsonl").write_text("\n".join(lines) + "\n")
    print("of different models:", *sorted(clashes))
    print(len(found), "names,", len(lines), "configs;", len(clashes), "names of different models")


DROPPED = ("quantization_config", "rope_parameters", "text_config")


if __name__ == "__main__":
    if sys.argv[1:2] == ["models"]:
        models(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:] == ["defaults"]:
        defaults()
    else:
        sys.exit(__doc__)
