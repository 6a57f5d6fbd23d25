"""The child process that holds the embedded llama.cpp server. Knows only the JSON on its first line
of input.

It ends when its input ends, so that no model outlives the program that asked for it.
"""

import json
import os
import sys


def main() -> None:
    import xllamacpp

    asked = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path = asked["path"]
    params.model_alias = {asked["alias"]} if isinstance(params.model_alias, set) else asked["alias"]
    params.hostnames, params.port = ["127.0.0.1"], asked["port"]
    params.api_keys = [asked["api_key"]]
    params.cors_origins = "null"  # the server's default lets every web page call it
    params.n_ctx, params.n_ubatch, params.n_parallel = (
        asked["n_ctx"],
        asked["n_ubatch"],
        asked["n_parallel"],
    )
    params.n_batch = max(asked["n_ubatch"], 2048 if not asked["embedding"] else asked["n_ubatch"])
    params.n_gpu_layers = asked["n_gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["n_threads"]
    params.cache_type_k = params.cache_type_v = getattr(
        xllamacpp.ggml_type, f"GGML_TYPE_{asked['kv_type'].upper()}"
    )
    params.use_jinja, params.endpoint_metrics, params.ui = True, True, False
    params.fit_params = False  # the plan has decided already; a second opinion would make it untrue
    params.verbosity = 4  # prints where the layers went and how large each buffer is
    if asked["embedding"]:
        params.embedding = True
    if asked["rerank"]:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if asked["adapter"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(asked["adapter"], 1.0)]
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
