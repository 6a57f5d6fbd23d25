"""Models and data for tests of fine-tuning."""

import json

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from onecard.tasks.finetune.configs import TrainConfig

TOWNS = (
    "Alder",
    "Birch",
    "Cedar",
    "Dorn",
    "Elm",
    "Fenn",
    "Gale",
    "Holt",
    "Iver",
    "Jarl",
    "Kern",
    "Lund",
    "Mire",
    "Nord",
    "Oak",
    "Pell",
    "Quay",
    "Rook",
    "Sorn",
    "Thorn",
    "Ulm",
    "Vale",
    "Wick",
    "Yarrow",
)
METALS = ("copper", "silver", "iron", "tin")


def town_pairs(path, n=4):
    """Pairs in a manner that the base does not have: a fixed form and two words more, so that a few
    steps show. One JSON object a line."""
    rows = [
        {
            "prompt": f"Which metal is mined at {town} {i}?",
            "completion": f"At {town} {i} they mine {METALS[(len(town) + i) % 4]}, "
            "says the ledger.",
        }
        for town in TOWNS
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def random_model(base, folder, width, layers, vocab_size=49152):
    """A Llama with random weights and the tokenizer of `base`, as a folder."""
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def quick(folder, data, **options):
    """The config of a training that takes seconds: nothing generated, nothing exported."""
    values = {
        "model": str(folder),
        "dataset": str(data),
        "max_seq_length": 128,
        "generate_items": 0,
        "quants": ("none",),
        "eval_items": 4,
        "gradient_accumulation_steps": 2,
        "save_steps": 3,
    }
    return TrainConfig(**(values | options))
