#!/usr/bin/env bash
# The study of docs/study.md with ten times the images seen, on one GPU: rows side by side, then probes
# and one table. At most nine minutes with the default budget on a recent GPU with 16 CPU cores.
#
#   benchmarks/study_gpu.sh FILE.tar.gz OUT          # FILE.tar.gz: of tools/study_gpu_data.py
#   DEVICE=cpu STEPS=4 BATCH=64 ROWS="random moco_hcl" benchmarks/study_gpu.sh FILE.tar.gz OUT   # a trial
set -euo pipefail

file=$1 out=$2
device=${DEVICE:-cuda}
batch=${BATCH:-512}
steps=${STEPS:-$((2000384 / batch))}   # 2,000,384 images: ten times those of a row of the study
rows=${ROWS:-random moco moco_objects moco_hcl moco_hcl_euclidean}
seed=${SEED:-0}
limit=${LIMIT:-420}                    # seconds for pretraining; a run that is stopped saves itself

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive
data=$out/data
mkdir -p "$data"
tar -xf "$file" -C "$data"
hcl data prepare coco "$data" --annotations "$data/study/pretrain.json" --images "$data" --output "$data/index"
hcl data pack "$data/index" -o "$data/pack"

pretrain() {
    local row=$1 run=$out/$1-seed$seed
    local length=(train.steps="$steps")
    [ "$row" = random ] && length=()
    timeout --signal=TERM "$limit" hcl pretrain "study_scenes_$row" output="$run" seed="$seed" \
        data.index="$data/index" data.pack="$data/pack" data.crop_on=device data.workers=3 \
        optim.batch_size="$batch" optim.scale_lr=linear train.device="$device" train.threads=2 \
        train.precision="${PRECISION:-bf16}" "${length[@]}" > "$run.log" 2>&1
}

probe() {
    local run=$out/$1-seed$seed lists=$data/study
    hcl probe "$run" --labels image --train "$lists/scene_train.json" "$data" \
        --val "$lists/scene_val.json" "$data" --device "$device" --output "$run/scenes"
    hcl probe "$run" --labels object --train "$lists/objects_train.json" "$data" \
        --val "$lists/objects_val.json" "$data" --device "$device" --output "$run/objects"
    hcl retrieve "$run" --annotations "$lists/objects_val.json" --images "$data" \
        --device "$device" --output "$run/retrieval"
}

processes=()
for row in $rows; do
    pretrain "$row" & processes+=("$!")
done
for process in "${processes[@]}"; do wait "$process"; done

folders=()
for row in $rows; do
    probe "$row" > "$out/$row-seed$seed.probes.log" 2>&1 & folders+=("$out/$row-seed$seed")
done
wait
hcl compare "${folders[@]}" --output "$out/report" --resamples 0
