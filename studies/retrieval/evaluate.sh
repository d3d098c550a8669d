#!/bin/bash
# Compare all rules on one model: evaluate.sh hybrid|transformer SEED. Three draws of documents each.
set -e
run=outputs/retrieval/$1-$2
for draw in 1 2 3; do
  common="--model $run/3 --dtype float32 --samples 24 --seed $draw"
  # As near to the thesis as so small a model goes: chunks of 256 tokens, 256 tokens retrieved.
  hylora eval retrieval $common --tasks facts --lengths 1024 2048 --chunk-size 256 --read 256 --block-sizes 8 16 32 \
    --output $run/facts_$draw.json --overwrite
  hylora eval retrieval $common --tasks recall,facts --lengths 511 --chunk-size 64 --read 64 --block-sizes 8 16 \
    --output $run/short_$draw.json --overwrite
done
python studies/retrieval/recall.py $run/3 > $run/recall.json
