#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: check the kernels, time them, tune them, and write tables and pictures.
#   benchmarks/gpu.sh [STAGE or PART ...] [--seconds N] [--output FOLDER] [--dry-run]
# Without network, with nothing installed beyond torch and triton (what else is missing is left out and named). Results
# go to FOLDER (default: outputs/gpu) after every measurement, what was printed to gpu.log. What fails is named there with
# its traceback, and the rest goes on; the exit code is then not 0. See docs/guides/gpu.md.
cd "$(dirname "$0")/.." || exit
export PYTHONPATH=.:kernels/torch-ext:eval:benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
exec python3 benchmarks/gpu.py "$@"
