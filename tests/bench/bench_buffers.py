"""The plan against the embedded engine's own buffers: models x contexts x micro-batches x caches.

python tests/bench/bench_buffers.py        4 minutes

Writes bench-results/buffers.json and prints the largest error of each buffer.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import random_gguf  # noqa: E402
from engine_buffers import compare  # noqa: E402

from onecard import api  # noqa: E402
from onecard.hub import names  # noqa: E402
from onecard.reporting import table  # noqa: E402

REAL = {"smollm2-135m": "", "gemma3-270m-base": "q4_k_m", "qwen2.5-coder:0.5b": "q4_k_m"}
GRID = [(512, 512, "f16"), (2048, 256, "q8_0"), (4096, 512, "q4_0"), (8192, 128, "f16")]
WIDE = {
    "llama": {"D": 512, "F": 1536, "L": 6},
    "qwen3moe": {"D": 512, "experts": 32, "used": 8, "width": 192},
    "gemma3": {"D": 384, "F": 1536, "L": 12, "window": 512},
    "gpt-oss": {"D": 448, "experts": 16, "used": 4, "width": 448, "L": 6},
    "deepseek2": {"D": 512, "H": 8, "rank": 256, "rope": 64, "F": 1536},
    "granitehybrid": {"D": 512, "inner": 1024, "ssm_heads": 16, "state": 128, "F": 1024, "H": 8},
    "lfm2": {"D": 512, "F": 1536, "H": 8},
    "qwen35": {"D": 512, "inner": 1024, "ssm_heads": 8, "state": 128, "groups": 4, "F": 1536},
}


def main():
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, quant in REAL.items():
            if quant:
                api.pull(name, quant)
            files[name] = names.find(name).path
        for arch in random_gguf.WRITERS:
            for label, sizes in (("small", {}), ("wide", WIDE[arch])):
                path = Path(folder) / f"{arch}-{label}.gguf"
                sizes = {**random_gguf.SIZES[arch], **sizes}
                files[f"{arch} {label}"] = random_gguf.write(path, arch, **sizes)
        for name, path in files.items():
            for n_ctx, n_ubatch, kv_type in GRID:
                found = compare(path, n_ctx, n_ubatch, kv_type)
                row = {"model": name, "n_ctx": n_ctx, "n_ubatch": n_ubatch, "kv_type": kv_type}
                rows.append(row | {k: {"planned": p, "printed": q} for k, (p, q) in found.items()})
    (ROOT / "bench-results").mkdir(exist_ok=True)
    (ROOT / "bench-results/buffers.json").write_text(json.dumps(rows, indent=1))
    cells = [
        [f"{r['model']} {r['n_ctx']} {r['n_ubatch']} {r['kv_type']}", *map(error, shown(r))]
        for r in rows
    ]
    print(table(cells, ["combination", "weights", "KV", "state", "compute"]))
    print(len(rows), "combinations")
    for i, name in enumerate(("weights", "KV", "state", "compute")):
        errors = sorted(abs(p / q - 1) for r in rows for p, q in [shown(r)[i]] if q > 0.1)
        print(f"{name}: largest {errors[-1]:.2%}, median {errors[len(errors) // 2]:.2%}")


def shown(row):
    return [(row[k]["planned"], row[k]["printed"]) for k in ("model", "kv", "state", "compute")]


def error(pair):
    return f"{pair[0] / pair[1] - 1:+.2%}" if pair[1] else "-"


if __name__ == "__main__":
    main()
