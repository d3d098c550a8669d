#!/bin/bash
# Pre-train one model of the study: pretrain.sh hybrid|transformer, after pretrain.sh data. What is there is kept.
set -e
kind=$1 run=outputs/language retrieval=outputs/retrieval
if [ "$kind" = data ]; then
  [ -e $retrieval/data/sparse_256.jsonl ] || python studies/retrieval/data.py
  [ -e $run/data/needles_1024.jsonl ] || python studies/language/data.py
  exit
fi
bash studies/retrieval/train.sh "$kind" 0 2_mixture
freeze="[]"
[ "$kind" = hybrid ] && freeze="[A_log]"
python -m hylora.train studies/language/recipes/pretrain.yaml training.resume=true \
  model.path=$retrieval/$kind-0/2 "model.freeze=$freeze" output.path=$run/$kind
