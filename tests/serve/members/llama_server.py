"""Serve a GGUF file by llama.cpp's own HTTP server, on a free port of loopback, until killed."""

import sys
import time

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {"bible"}
params.port, params.n_ctx, params.n_parallel = int(sys.argv[2]), 2048, 4
params.cpuparams.n_threads, params.warmup = 1, False
# Keys and values in 32 bits: only so are its log-probs those of transformers.
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(600)
