#!/usr/bin/env bash
# Train the larger emoji model (30 M parameters) on one CUDA GPU, some minutes at a time; repeat it to go on.
#
#   scripts/gpu/train_large.sh words  MINUTES TARGET
#   scripts/gpu/train_large.sh base   MINUTES TARGET START
#   scripts/gpu/train_large.sh mixcot MINUTES TARGET START
#
# MINUTES  of training; setting up takes about one more
# TARGET   new directory for the checkpoint: bfloat16, 60 MB in files of at most 15 MB
# START    a checkpoint to go on from: the TARGET of the stage before, or of an earlier run on another machine
#
# On one machine runs/large/* keeps the exact state, and the same command resumes from there. A checkpoint alone has no moments of the
# optimizer: a run that starts from one warms up again, and its schedule begins anew.
# Needs the package with its training extra (pip install -e '.[train]'); the image tokenizer is the built-in one.
set -euo pipefail
cd "$(dirname "$0")/../.."
stage=$1 minutes=$2 target=$3 start=${4:-}
from=(model.preset=30m)
[ -z "$start" ] || from=("model.start=$start")
mmada train "configs/emoji/$stage.yaml" "out=runs/large/$stage" model.image_tokenizer=mmada-emoji-tokenizer "${from[@]}" \
  stage.batch=512 stage.optim.matrix_lr=0.01 stage.optim.lr=2e-3 loop.precision=bf16 loop.compile=true loop.prefetch=8 \
  loop.save_every=200 loop.eval_every=200 loop.sample_every=0 "loop.max_minutes=$minutes"
mmada convert "runs/large/$stage/model" "$target" --dtype bfloat16 --max-shard-size 15MB
