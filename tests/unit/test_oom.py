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


PROGRAMS = {
    "llama.cpp's cache": (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8192.00 MiB on device 0: "
        "cudaMalloc failed: out of memory\nalloc_tensor_range: failed to allocate CUDA0 buffer of "
        "size 8589934592\nllama_init_from_model: failed to initialize the context: failed to "
        "allocate buffer for kv cache",
        "KV cache",
    ),
    "llama.cpp's compute buffer": (
        "graph_reserve: failed to allocate compute buffers\nllama_init_from_model: failed to "
        "initialize the context: failed to allocate compute pp buffers",
        "compute",
    ),
    "vLLM without room": (
        "ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine.",
        "KV cache",
    ),
    "vLLM's long context": (
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens "
        "that can be stored in KV cache (20480).",
        "KV cache",
    ),
    "a picture's decoder": (
        trace(
            '  File "diffusers/models/autoencoders/autoencoder_kl.py", line 304, in decode',
            '  File "diffusers/models/upsampling.py", line 180, in forward',
            "    hidden_states = F.interpolate(hidden_states, scale_factor=2.0)",
        ),
        "decoder",
    ),
    "bitsandbytes": (
        "Error out of memory at line 380 in file /src/csrc/pythonInterface.c\n"
        "transformers.from_pretrained",
        "weights",
    ),
    "a DataLoader's worker": (
        "RuntimeError: DataLoader worker (pid 4242) is killed by signal: Killed.",
        "host memory",
    ),
    "shared memory": (
        "RuntimeError: DataLoader worker (pid 17) is killed by signal: Bus error. It is possible "
        "that dataloader's workers are out of shared memory. Please try to raise your shared "
        "memory limit.",
        "shared memory",
    ),
    "torch inside a worker": (
        "RuntimeError: Caught OutOfMemoryError in pin memory thread for device 0.\n"
        + trace('  File "train.py", line 3, in forward', "    x = conv(x)"),
        "activations",
    ),
    "Linux": (
        "Out of memory: Killed process 1234 (python3) total-vm:41943040kB, anon-rss:31457280kB",
        "host memory",
    ),
    "a shell": ("Epoch 3/50\nKilled\n", "host memory"),
    "a container": ("process exited with code 137", "host memory"),
    "torch on a CPU": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate "
        "memory)",
        "host memory",
    ),
    "numpy": (
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 2.00 GiB for an array with "
        "shape (268435456,) and data type float64",
        "host memory",
    ),
    "Metal": (
        "RuntimeError: MPS backend out of memory (MPS allocated: 17.95 GB, other allocations: "
        "384.00 KB, max allowed: 18.13 GB). Tried to allocate 128.00 MB on private pool.",
        "activations",
    ),
    "cuBLAS": (
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "activations",
    ),
    "CTranslate2": ("RuntimeError: CUDA failed with error out of memory", "activations"),
    "Ollama": (
        "Error: model requires more system memory (5.6 GiB) than is available (4.0 GiB)",
        "host memory",
    ),
    "Vulkan": (
        "ggml_vulkan: Device memory allocation of size 704643072 failed /ErrorOutOfDeviceMemory",
        "activations",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_messages_of_many_programs(name):
    text, term = PROGRAMS[name]
    found = oom.read(text)
    assert found.term == term
    assert found.render().startswith(term)


def test_sizes_in_messages_of_other_programs():
    assert oom.read(PROGRAMS["numpy"][0]).asked_bytes == 2 * GIB
    assert oom.read(PROGRAMS["torch on a CPU"][0]).asked_bytes == 8 * GIB
    assert oom.read(PROGRAMS["llama.cpp's cache"][0]).asked_bytes == 8 * GIB


@pytest.mark.parametrize(
    "text",
    [
        "the killer feature of memory foam",
        "exit code 13",
        "val loss 137 at step 4",
        "I ran out of time. Memory is fine.",
    ],
)
def test_words_alike_are_no_lack_of_memory(text):
    with pytest.raises(DataError):
        oom.read(text)


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
