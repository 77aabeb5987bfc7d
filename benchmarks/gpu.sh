#!/usr/bin/env bash
# What can be measured on a GPU only: the engines' tests on CUDA, and the stages of a divided study.
#
# IT HAS NEVER RUN ON A GPU. On a CPU tests run benchmarks/stages.py and benchmarks/engines.py.
#
#     MODEL=gemma-3-270m GPUS=1 bash benchmarks/gpu.sh
#
# Writes results/MODEL/benchmarks/stages.GPUS.json: bytes per parameter by stage, steps of fine-tuning
# and tokens of mastery a second. With OFFLOAD=true the fine-tuning keeps its state on the host. With
# TENSOR_PARALLEL=true the network that answers is divided too. Writes engines.PROCESSOR.json beside
# it: tokens a second by engine, with vLLM where `pip install 'repro[vllm]'` has been done.
set -euo pipefail
cd "$(dirname "$0")/.."
MODEL=${MODEL:-gemma-3-270m} GPUS=${GPUS:-1} FACTS=${FACTS:-64} OFFLOAD=${OFFLOAD:-false}
TENSOR_PARALLEL=${TENSOR_PARALLEL:-false}

python - <<'CHECK'
import sys, torch
if not torch.cuda.is_available():
    sys.exit("there is no GPU here that PyTorch can use")
print(torch.cuda.get_device_name(), torch.cuda.device_count())
CHECK

# The engines, the cache, sampling and ranking, whose tests take whatever device there is.
python -m pytest -q tests/inference tests/restoration/test_ranking.py tests/restoration/test_restore.py

ENGINES=transformers
if python -c 'import vllm'; then ENGINES="transformers vllm"; fi
# shellcheck disable=SC2086
python benchmarks/engines.py "$MODEL" --engines $ENGINES --facts "$FACTS" --dtype bfloat16

REPRO_TENSOR_PARALLEL=$TENSOR_PARALLEL accelerate launch --use_fsdp --fsdp_version 2 --num_processes "$GPUS" \
    --fsdp_offload_params "$OFFLOAD" --fsdp_activation_checkpointing true \
    benchmarks/stages.py "$MODEL" --facts "$FACTS"
