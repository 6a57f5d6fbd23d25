"""The child process that runs the embedded llama.cpp server: parameters are JSON on stdin.

It ends when stdin ends, so that no model outlives the program that started it.
"""

import json
import os
import sys

import xllamacpp


def main() -> None:
    """Start the server from the first line of stdin, print its address, wait for the end."""
    request = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path = request["path"]
    params.model_alias = (
        {request["alias"]} if isinstance(params.model_alias, set) else request["alias"]
    )
    params.hostnames, params.port = ["127.0.0.1"], request["port"]
    params.api_keys = [request["api_key"]]
    params.cors_origins = "null"  # the server's default lets every web page call it
    params.n_ctx, params.n_ubatch, params.n_parallel = (
        request["n_ctx"],
        request["n_ubatch"],
        request["n_parallel"],
    )
    # an embedding model needs a text whole in one batch
    params.n_batch = request["n_ubatch"] if request["embedding"] else max(request["n_ubatch"], 2048)
    params.n_gpu_layers = request["n_gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["n_threads"]
    params.cache_type_k = params.cache_type_v = getattr(
        xllamacpp.ggml_type, f"GGML_TYPE_{request['kv_type'].upper()}"
    )
    params.use_jinja, params.endpoint_metrics, params.ui = True, True, False
    params.cache_ram_mib = request["cache_ram_mib"]  # the library's own bound is 8 GiB
    params.fit_params = False  # the plan has placed the layers already
    params.verbosity = 4  # prints where the layers went and how large each buffer is
    if request["embedding"]:
        params.embedding = True
    if request["rerank"]:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if request["adapter"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(request["adapter"], 1.0)]
    if request["mmproj"]:
        params.mmproj.path = request["mmproj"]
        params.mmproj_use_gpu = request["n_gpu_layers"] != 0
        params.image_min_tokens = request["image_min_tokens"] or -1
        params.image_max_tokens = request["image_max_tokens"] or -1
    devices = [
        row["description"]
        for row in xllamacpp.get_device_info()
        if row["type"].name != "GGML_BACKEND_DEVICE_TYPE_CPU"
    ]
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"url": server.listening_address, "devices": devices}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    sys.stderr.flush()
    os._exit(0)  # the server's own shutdown may wait for a slow client


if __name__ == "__main__":
    main()
