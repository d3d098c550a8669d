#!/usr/bin/env bash
# The vision story in miniature: three comparisons with one seed, two at a time, and what they found as tables and
# pictures.
#
#     bash studies/vision/demo.sh FOLDER [section.key=value ...]
set -euo pipefail
folder=$1
shift

compare() {
    python studies/vision/compare.py "studies/vision/$1.yaml" --seeds 1 --output "$folder" --settings "${@:2}"
}

sample() {
    compare samplers SSc-FBS MSc-FBS MSc-VBS MSc-VBSWC -- training.epochs=15 evaluation.every=0 "$@"
}

grow() {
    compare growth dense "dense, 8 of 20 epochs" "R 0.25" "W 0.25" "R 0.25, W 0.25, D 0.25" -- "$@"
}

prune() {
    python studies/pruning/sweep.py --seeds 1 --every 5 --settings "global 90 %" --output "$folder/pruned" \
        --results "$folder/pruning.json" images.held_out=0.8 training.global_batch_size=64 training.batch_size=64 \
        tracking.progress=false "$@"
}

prune "$@" &
pruning=$!
sample "$@"
grow "$@"
wait $pruning
python studies/vision/tell.py "$folder"
hylora eval report "$folder/samplers.json" "$folder/growth.json" --output "$folder/report" > /dev/null
printf '\n## When to prune\n\n' >> "$folder/vision.md"
python docs/draw_pruning.py "$folder/pruning.json" "$folder/pruning.png" | tee -a "$folder/vision.md"
