#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: check the kernels on it, then time them. Needs torch, pytest and hypothesis, no network
# and no installation. Everything goes to the folder named by the first argument (default: outputs/gpu).
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-outputs/gpu}
mkdir -p "$output"
export PYTHONPATH=kernels/torch-ext:.

python3 -m pytest -q -m gpu tests/kernels 2>&1 | tee "$output/tests.txt"
python3 benchmarks/attention.py --device cuda --dtypes bfloat16 --head-dim 128 --heads 32 \
  --lengths 4096 8192 16384 32768 65536 131072 --output "$output"
