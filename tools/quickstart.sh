#!/usr/bin/env bash
# The whole road once, on embedded data: scenes, three pretraining rows, detection, retrieval,
# report. Every line it runs is printed, and can be typed by hand. Finished steps are skipped.
set -euo pipefail

# Busy-waiting threads slow each other down several times over where cores are shared.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

data=${HCL_QUICKSTART_DATA:-data/quickstart}
runs=${HCL_QUICKSTART_RUNS:-runs/quickstart}

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

train=("$data/annotations/instances_train.json" "$data/train")
val=("$data/annotations/instances_val.json" "$data/val")

run hcl data scenes "$data" --images 1200 --val 200 --size 160 --seed 0 --workers 2

for row in random moco moco-hcl; do
    case $row in
        random) overrides=(train.epochs=null train.steps=0) ;;  # the baseline: no training at all
        moco) overrides=(hcl.weight=0) ;;
        moco-hcl) overrides=() ;;
    esac
    run hcl pretrain quickstart "output=$runs/$row" "${overrides[@]}" \
        "data.annotations=${train[0]}" "data.images=${train[1]}"
    run hcl export "$runs/$row" --to detectron2 -o "$runs/$row/backbone.pth"
    run hcl detect quickstart_r18_fpn --weights "$runs/$row/backbone.pth" --name "$row" \
        --train "${train[@]}" --val "${val[@]}" --output "$runs/$row/detection"
    run hcl retrieve "$runs/$row" --name "$row" \
        --annotations "${val[0]}" --images "${val[1]}" --output "$runs/$row/retrieval"
done

run hcl compare "$runs/random" "$runs/moco" "$runs/moco-hcl" --output "$runs/report"
