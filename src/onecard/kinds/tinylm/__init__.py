"""tinylm: a language model of a few million weights from scratch, to learn from and to measure."""

from onecard.kinds.base import Kind, Verb
from onecard.kinds.tinylm.config import Settings
from onecard.kinds.tinylm.memory import plan, smaller

NEEDS = ("torch", "tokenizers", "safetensors")
TRAINING = tuple(name for name in Settings.model_fields if name not in ("run_id", "prompt", "max_new_tokens", "num_samples", "temperature", "top_k", "top_p", "positions", "seeds"))

NOT_ABLATED = ("position", "profile", "sample", "sample_tokens", "keep_best", "quants", "minutes", "compile", "save_steps", "eval_steps", "logging_steps")

KIND = Kind(
    name="tinylm",
    says="a language model of a few million weights from scratch, to learn from and to measure",
    settings=Settings,
    plan=plan,
    verbs={
        "train": Verb("work:train", "learn from a text, score over all that is held out, write files for chat", "dataset", needs=NEEDS, fields=TRAINING),
        "generate": Verb("work:write", "write on from a prompt", "run_id", needs=NEEDS, records=False, fields=("run_id", "prompt", "max_new_tokens", "num_samples", "temperature", "top_k", "top_p", "seed")),
        "evaluate": Verb("evals:evaluate", "loss, perplexity, bits a character, pace with and without cache, reading beyond the training length", "run_id", needs=NEEDS, fields=("run_id", "dataset", "split", "val_share", "seed", "report_to")),
        "export": Verb("export:export", "safetensors for transformers and GGUF for chat", "run_id", needs=NEEDS, fields=("run_id", "quants", "output_dir")),
        "ablate": Verb("ablate:ablate", "learned, sinusoidal, RoPE and ALiBi positions against each other at equal weights and compute", "dataset", needs=NEEDS,
                       fields=(*(name for name in TRAINING if name not in NOT_ABLATED), "positions", "seeds")),
    },
    smaller=smaller,
)
