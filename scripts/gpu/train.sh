#!/usr/bin/env bash
# Train an emoji model on one CUDA GPU, some minutes at a time; repeat it to go on.
#
#   scripts/gpu/train.sh STAGE MINUTES STEPS TARGET START [KEY=VALUE ...]
#   scripts/gpu/train.sh mixcot 8 auto out/mixcot mmada-emoji-mixcot           # go on with the built-in model
#   scripts/gpu/train.sh words  8 500  out/words  "" model.preset=30m          # the larger one, from nothing; then base, then mixcot
#
# STAGE    words, base or mixcot
# MINUTES  of training at most; setting up takes about half a minute more
# STEPS    of the schedule, whose rates fall to 0. auto: as many as fit, by the speed of 120 steps; resume with the number that it says
# TARGET   directory for the checkpoint: bfloat16, in files of at most 15 MB; one that is there is replaced
# START    a checkpoint to go on from; "" begins anew
#
# On one machine runs/gpu/* keeps the exact state, and the same command resumes from there. A checkpoint alone has no moments of the
# optimizer: a run that starts from one warms up again, and its schedule begins anew. Batches are made by processes of their own, which is
# what a GPU waits for. Needs the package with its training extra, or its folder in PYTHONPATH.
set -euo pipefail
cd "$(dirname "$0")/../.."
stage=$1 minutes=$2 steps=$3 target=$4 start=$5
shift 5
from=()
[ -z "$start" ] || from=("model.start=$start")
if [ -e "$target" ] && [ ! -f "$target/config.json" ]; then
  echo "TARGET $target is there and holds no checkpoint; name another" >&2
  exit 2
fi
ulimit -n "$(ulimit -Hn)"
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True  # batches differ in size
workers=$(($(nproc) > 3 ? $(nproc) - 1 : 1))

run() {
  python3 -m mmada train "configs/emoji/$stage.yaml" model.image_tokenizer=mmada-emoji-tokenizer ${from[@]+"${from[@]}"} \
    stage.batch=1099 stage.optim.matrix_lr=0.01 stage.optim.lr=1.5e-3 loop.precision=bf16 loop.round_to=32 "loop.workers=$workers" \
    loop.prefetch=2 loop.eval_every=0 loop.sample_every=0 "$@"
}

if [ "$steps" = auto ]; then
  rm -rf "runs/gpu/$stage-speed"
  run "$@" "out=runs/gpu/$stage-speed" stage.steps=120 loop.log_every=60 loop.save_every=0
  steps=$(python3 - "runs/gpu/$stage-speed/metrics.jsonl" "$minutes" <<'EOF'
import json, sys
lines = [line for line in map(json.loads, open(sys.argv[1])) if "tokens_per_second" in line]
first, last = lines[0], lines[-1]  # the first batches were made ahead, and say nothing
print(int(0.97 * 60 * float(sys.argv[2]) * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])))
EOF
  )
  echo "$steps steps"
fi
run "$@" "out=runs/gpu/$stage" "stage.steps=$steps" loop.save_every=400 "loop.max_minutes=$minutes"
rm -rf "$target.new"
python3 -m mmada convert "runs/gpu/$stage/model" "$target.new" --dtype bfloat16 --max-shard-size 15MB
rm -rf "$target"
mv "$target.new" "$target"
