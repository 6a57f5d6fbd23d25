"""Out-of-memory messages of the programs people run, and what they are taken for."""

import json

import pytest

from onecard.cli.app import main
from onecard.errors import DataError
from onecard.memory import oom

GIB = 2**30
NEW = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {asked}. GPU 0 has a total "
    "capacity of 11.99 GiB of which 1.02 GiB is free. "
    "Of the allocated memory 9.80 GiB is allocated by PyTorch, and {idle} is reserved by PyTorch "
    "but unallocated."
)


def trace(*lines, asked="1.96 GiB", idle="512.00 MiB"):
    return (
        "Traceback (most recent call last):\n"
        + "\n".join(lines)
        + "\n"
        + NEW.format(asked=asked, idle=idle)
    )


@pytest.mark.parametrize(
    ("text", "term"),
    [
        (
            trace(
                '  File "transformers/loss/loss_utils.py", line 63, in ForCausalLMLoss',
                "    logits = logits.float()",
            ),
            "loss",
        ),
        (
            trace(
                '  File "torch/nn/functional.py", line 3479, in cross_entropy',
                "    return torch._C._nn.cross_entropy_loss(",
            ),
            "loss",
        ),
        (
            trace(
                '  File "torch/optim/adamw.py", line 200, in _init_group',
                "    state['exp_avg'] = torch.zeros_like(",
            ),
            "optimizer",
        ),
        (
            trace(
                '  File "transformers/models/llama/modeling_llama.py", line 190, in '
                "eager_attention_forward",
                "    attn_weights = nn.functional.softmax(attn_weights, dim=-1, "
                "dtype=torch.float32)",
            ),
            "one layer's backward",
        ),
        (
            trace(
                '  File "transformers/cache_utils.py", line 80, in update',
                "    self.key_cache = torch.cat(",
            ),
            "KV cache",
        ),
        (
            trace(
                '  File "transformers/modeling_utils.py", line 4000, in from_pretrained',
                "    model = model.to(device)",
            ),
            "weights",
        ),
        (
            trace(
                '  File "torch/autograd/graph.py", line 823, in _engine_run_backward',
                "    return Variable._execution_engine.run_backward(",
            ),
            "activations",
        ),
        (
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4685.30 MiB on device 0: "
            "cudaMalloc failed: out of memory\nllama_model_load: error loading model: unable to "
            "allocate CUDA0 buffer",
            "weights",
        ),
        (
            "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size "
            "587202560\ngraph_reserve: failed to allocate compute buffers",
            "compute",
        ),
    ],
)
def test_the_term_is_named(text, term):
    assert oom.read(text).term == term


def test_figures_of_new_and_old_messages():
    found = oom.read(trace("  x", asked="300.00 MiB"))
    assert (found.asked_bytes, found.free_bytes, found.total_bytes) == (
        300 * 2**20,
        round(1.02 * GIB),
        round(11.99 * GIB),
    ) and found.fragmented
    old = oom.read(
        "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.79 GiB total "
        "capacity; 6.43 GiB already allocated; 17.06 MiB free; 6.53 GiB reserved in total by "
        "PyTorch)"
    )
    assert (old.asked_bytes, old.total_bytes, old.allocated_bytes) == (
        20 * 2**20,
        round(7.79 * GIB),
        round(6.43 * GIB),
    ) and not old.fragmented
    assert "expandable_segments" in found.render() and "expandable_segments" not in old.render()


@pytest.mark.parametrize("text", ["", "all went well", "memory: 12 GiB", "\x00\x01" * 50])
def test_other_texts_are_refused(text):
    with pytest.raises(DataError):
        oom.read(text)


def test_the_command_reads_a_file_and_a_run_folder(tmp_path, capsys):
    (tmp_path / "traceback.txt").write_text(
        trace('  File "transformers/loss/loss_utils.py", line 63, in ForCausalLMLoss')
    )
    assert (
        main(
            [
                "explain-oom",
                str(tmp_path),
                "--workload",
                "qlora",
                "--model",
                "llama-3.1-8b",
                "--seq",
                "4096",
                "--card",
                "4070ti",
                "--json",
            ]
        )
        == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert (
        data["term"] == "loss"
        and data["changes"][0]["changes"] == {"loss": "fused"}
        and data["changes"][0]["saved_bytes"] > GIB
        and len(data["changes"]) == 3
    )
    assert (
        main(["explain-oom", str(tmp_path / "traceback.txt")]) == 0
        and "vocabulary" in capsys.readouterr().out
    )
    assert (
        main(["explain-oom", str(tmp_path / "none")]) == 6
        and main(["explain-oom", str(tmp_path), "--workload", "teleport"]) == 6
    )
    assert main(["explain-oom"]) == 0
