#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: test the kernels on it, check every method, time them, and write tables and pictures.
# At most 8 minutes, without network, with nothing installed beyond torch (what else is missing is left out and named).
#   benchmarks/gpu.sh [FOLDER [--quick] [--device cpu]]
# Everything goes to FOLDER (default: outputs/gpu), what was printed to gpu.log. What fails is named in the results with its
# traceback, and the rest goes on; the exit code is then not 0.
set -uo pipefail
cd "$(dirname "$0")/.."
output=${1:-outputs/gpu}
shift || true
options=("$@")
mkdir -p "$output"
rm -f "$output/gpu.json" "$output/gpu.log"
export PYTHONPATH=.:kernels/torch-ext:eval${PYTHONPATH:+:$PYTHONPATH}
status=0

limit=475 # seconds for everything
report=20 # of which so many are kept for the report

part() { # NAME SECONDS: a part that overruns its own budget is ended, and what it wrote stays
  local left=$((limit - SECONDS))
  [ "$1" = report ] || left=$((left - report))
  local guard=$(($2 + 15 < left ? $2 + 15 : left))
  if [ $guard -le 0 ]; then
    echo "no time left for part $1"
    return
  fi
  timeout --kill-after=5 $guard python3 benchmarks/gpu.py "$1" --seconds "$2" --output "$output" \
    ${options[@]+"${options[@]}"} 2>&1 | tee -a "$output/gpu.log"
  local code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    echo "part $1 ended with exit code $code"
    status=1
  fi
}

part operator 160
part decode 30
part step 80
part tests 80
part flex 50
part planner 40
part report $report
exit $status
