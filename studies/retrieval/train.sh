#!/bin/bash
# Train one model in its three stages: train.sh hybrid|transformer SEED. What is finished is kept, what is not resumes.
# Names of stages after the first may be given: train.sh hybrid 0 2_mixture leaves the third out.
set -e
kind=$1 seed=$2 run=outputs/retrieval/$1-$2 recipes=studies/retrieval/recipes
stages=${*:3}
freeze="[]"; start=""
[ "$kind" = hybrid ] && freeze="[A_log]"
if [ "$kind" = transformer ]; then
  start="model.path=$run/0"
  [ -e $run/0/model.safetensors ] || python studies/retrieval/transformer.py "$seed" $run/0
fi
common="training.seed=$seed training.resume=true"
[ -e $run/1/model.safetensors ] || python -m hylora.train $recipes/1_$kind.yaml $common $start output.path=$run/1
for stage in ${stages:-2_mixture 3_longer}; do
  number=${stage%%_*}
  [ -e $run/$number/model.safetensors ] || python -m hylora.train $recipes/$stage.yaml $common \
    model.path=$run/$((number - 1)) "model.freeze=$freeze" output.path=$run/$number
done
