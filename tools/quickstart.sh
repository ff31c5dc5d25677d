#!/usr/bin/env bash
# HCL once from start to end, on embedded data: scenes, three rows (a random network, MoCo-v2,
# MoCo-v2 + HCL), for each detection, retrieval and classification, and one report. Rows run two at
# a time, with one thread each. Every command is printed and can be typed by hand; finished ones
# are not run again.
set -euo pipefail

# Busy-waiting threads slow each other down several times over where cores are shared.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

data=${HCL_QUICKSTART_DATA:-data/quickstart}
runs=${HCL_QUICKSTART_RUNS:-runs/quickstart}
seed=${HCL_QUICKSTART_SEED:-0}

train=("$data/annotations/instances_train.json" "$data/train")
val=("$data/annotations/instances_val.json" "$data/val")

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# Pretrain and judge one row: row NAME [key=value ...].
row() {
    local out=$runs/$1 name=$1
    shift
    run hcl pretrain quickstart_r10 "output=$out" "seed=$seed" "$@" \
        "data.annotations=${train[0]}" "data.images=${train[1]}"
    run hcl retrieve "$out" --name "$name" \
        --annotations "${val[0]}" --images "${val[1]}" --output "$out/retrieval"
    run hcl probe "$out" --name "$name" \
        --train "${train[@]}" --val "${val[@]}" --output "$out/probe"
    run hcl detect quickstart_r10_fpn --weights "$out" --name "$name" \
        --train "${train[@]}" --val "${val[@]}" --output "$out/detection" SEED="$seed"
}

# The output of a command, each line after the name of what runs.
named() {
    local line
    while IFS= read -r line; do printf '%-11s| %s\n' "$1" "$line"; done
}

run hcl data scenes -o "$data" --source procedural:sea,sky --images 1600 --val 400 --size 128 \
    --seed "$seed" --workers 2

row moco-hcl 2>&1 | named moco-hcl &
with_hcl=$!
{
    row moco hcl.weight=0 2>&1 | named moco
    row random train.steps=0 2>&1 | named random
} &
others=$!
wait "$with_hcl"
wait "$others"

run hcl compare "$runs/random" "$runs/moco" "$runs/moco-hcl" --output "$runs/report"
