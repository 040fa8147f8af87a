#!/usr/bin/env bash
# Short runs of the embedded model's denoiser that differ in one choice each, with equal numbers of pictures: which text
# features, which captions, which places, which weights, which autoencoder. What they found is in docs/log.md.
#
#   runs/nano_arms.sh [ARM...]      all, or those named:
#   text-three      MiniLM, layers 0, 2 and 3: all others but the last two differ from this one
#   text-last       MiniLM, layer 3 alone                        channels-plain    every latent channel weighs the same
#   text-gptoss     a small GPT-OSS learnt on the captions       latents-plain      an autoencoder without semantic loss
#   captions-brief  brief captions alone                         latents-semantic   the same with it
#   places-free     things of any size anywhere
#
# Each arm learns from the same scenes of 128 pixels and is measured by its loss over the last fifth of its steps, by what
# it does with words that no caption had, and by pictures of held-out scenes. The arms of text and captions start with
# the image side of the embedded model and a random text side (runs/nano_graft.py), so that they learn which words mean
# what rather than what things look like; latents-plain and latents-semantic, whose latents are new, from random weights.
# One JSON file for each is left in $OUT; an arm that has one is not run again.
#
#   STEPS=800        of 16 pictures, for the arms of text; LATENTS_STEPS=1500 for those of latents
#   CODEC_STEPS=1000 of 8 crops, for each autoencoder; MINUTES=18 for the language model, in steps of 8 captions
#   OUT=runs/nano-arms   NANO=leanlens/nano   LIBRARY=everyday   PYTHON=python   SCALE=tiny (a rehearsal)
#
# On two cores two arms at a time, one core each, make more of them than one on both:
#
#   OMP_NUM_THREADS=1 taskset -c 0 runs/nano_arms.sh text-three text-last
set -euo pipefail
cd "$(dirname "$0")/.."

SCALE=${SCALE:-full}
OUT=${OUT:-runs/nano-arms}
NANO=${NANO:-leanlens/nano}
LIBRARY=${LIBRARY:-everyday}
PYTHON=${PYTHON:-python}
STEPS=${STEPS:-800}
LATENTS_STEPS=${LATENTS_STEPS:-1500}
CODEC_STEPS=${CODEC_STEPS:-1000}
MINUTES=${MINUTES:-18}
QUESTIONS=45
PICTURES=4
SCENES=3000
shrink=()
if [[ $SCALE == tiny ]]; then
    STEPS=3 LATENTS_STEPS=3 CODEC_STEPS=3 MINUTES=0.2 LIBRARY=sample QUESTIONS=3 PICTURES=0 SCENES=48
    shrink=(--set train.compile=false --set 'data.buckets=[{base = 128, batch = 4, sizes = [[128, 128]]}]')
fi
ARMS=(text-three text-last text-gptoss captions-brief places-free channels-plain latents-plain latents-semantic)

# What the embedded model asks of recipes/nano-128.toml, which is smaller and whose autoencoder has 8 channels.
embedded=(--set model.num_layers=8 --set model.num_attention_heads=5 --set model.out_channels=16
    --set "train.channel_weights=$("$PYTHON" -c '
import tomllib
print(tomllib.load(open("recipes/nano-gpu.toml", "rb"))["train"]["channel_weights"])')")

# train ARM STEPS PARTS [--set ...]: what it learns from is drawn and encoded first.
train() {
    local arm=$1 steps=$2 parts=$3 pictures=$((16 * $2))
    shift 3
    local settings=(--set run.dir="$OUT/$arm" --set model.parts="$parts"
        --set data.scenes.sources="$LIBRARY" --set data.scenes.num="$pictures" --set train.steps="$steps"
        --set optim.length="$steps" --set optim.warmup=$((steps / 20 + 1)) --set save.every=1000000
        "$@" ${shrink[@]+"${shrink[@]}"})
    "$PYTHON" runs/nano_scenes.py recipes/nano-128.toml "$OUT/$arm-scenes" --processes 1 "${settings[@]}"
    if [[ $arm != latents-* ]]; then
        rm -rf "$OUT/$arm-start"
        "$PYTHON" runs/nano_graft.py recipes/nano-128.toml "$NANO" "$OUT/$arm-start" "${settings[@]}"
        settings+=(--set init.from="$OUT/$arm-start")
    fi
    "$PYTHON" runs/nano_train.py recipes/nano-128.toml --encoded "$OUT/$arm-scenes" "${settings[@]}"
    rm -rf "$OUT/$arm-scenes"
}

# denoise ARM STEPS PARTS [--set ...]: the run, and what is measured of it.
denoise() {
    local arm=$1 words=null size=256 kinds=dense kind
    if [[ $arm == text-three || $arm == captions-brief ]]; then kinds="dense brief"; fi
    if [[ $arm == latents-* ]]; then size=128; fi # these have never seen a larger one
    train "$@"
    if [[ $PICTURES != 0 ]]; then
        words=$("$PYTHON" benchmarks/words.py --model "$OUT/$arm/export" --size 128 --pictures "$PICTURES" --sources "$LIBRARY")
    fi
    for kind in $kinds; do
        "$PYTHON" benchmarks/quality.py --model "$OUT/$arm/export" --num "$QUESTIONS" --sources "$LIBRARY" \
            --prompts "$kind" --size "$size" --steps 20 --cfg 2 >"$OUT/$arm/$kind.json"
    done
    WORDS=$words "$PYTHON" - "$arm" "$OUT/$arm" $kinds >"$OUT/$arm.json.part" <<'PY'
import json
import os
import sys
from pathlib import Path

arm, folder = sys.argv[1], Path(sys.argv[2])
lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
last = lines[-max(1, len(lines) // 5) :]
asked = {kind: json.loads((folder / f"{kind}.json").read_text()) for kind in sys.argv[3:]}
words = json.loads(os.environ["WORDS"])


def rates_of(quality):
    """What the model reached; the true pictures and the controls come behind it."""
    model = next(iter(quality["rates"].values()))
    return {name: rate and [rate["yes"], rate["num"]] for name, rate in model.items()}


print(
    json.dumps(
        {
            "arm": arm,
            "machine": asked["dense"]["machine"],
            "pictures": lines[-1]["images"],
            "seconds": round(lines[-1]["seconds"], 1),
            "loss_of_last_fifth": round(sum(line["loss"] for line in last) / len(last), 4),
            "told apart": words and words["told apart"],
            "understood": words and words["understood"],
            "words": words and words["words"],
            "rates": {kind: rates_of(quality) for kind, quality in asked.items()},
            "fid (fid-helper)": {kind: quality["fid (fid-helper)"] for kind, quality in asked.items()},
        },
        indent=1,
    )
)
PY
    mv "$OUT/$arm.json.part" "$OUT/$arm.json"
}

# What autoencoders and language models learn from, into $OUT/$1.
scenes() {
    "$PYTHON" -m leanlens scenes build --out "$OUT/$1" --num "$SCENES" --seed 78 --size 256 --sources "$LIBRARY"
}

arm_text-three() { denoise text-three "$STEPS" "$NANO" "${embedded[@]}"; }
arm_text-last() { denoise text-last "$STEPS" "$NANO" "${embedded[@]}" --set "model.selected_layer_index=[3]"; }
arm_places-free() {
    denoise places-free "$STEPS" "$NANO" "${embedded[@]}" --set data.scenes.grid=0 --set data.scenes.step=0 \
        --set data.scenes.tidy=false --set data.scenes.most=0
}
arm_channels-plain() {
    denoise channels-plain "$STEPS" "$NANO" "${embedded[@]}" \
        --set "train.channel_weights=[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"
}
arm_captions-brief() { denoise captions-brief "$STEPS" "$NANO" "${embedded[@]}" --set data.caption=brief; }

arm_text-gptoss() {
    scenes pictures-gptoss
    "$PYTHON" -m leanlens train recipes/nano-language.toml --set run.dir="$OUT/language" \
        --set captions.sources="['$OUT/pictures-gptoss']" --set captions.batch=8 --set train.minutes="$MINUTES"
    rm -rf "$OUT/gptoss-parts"
    "$PYTHON" runs/nano_parts.py "$NANO/vae" "$OUT/gptoss-parts" "$OUT/language/export"
    denoise text-gptoss "$STEPS" "$OUT/gptoss-parts" "${embedded[@]}" --set model.enc_hidden_dim=256 \
        --set "model.selected_layer_index=[1, 3, 5]"
}

latents() {
    scenes "pictures-$1"
    "$PYTHON" -m leanlens train recipes/nano-autoencoder.toml --set run.dir="$OUT/$1-autoencoder" \
        --set crops.sources="['$OUT/pictures-$1']" --set losses.semantic="$2" \
        --set train.steps="$CODEC_STEPS" --set optim.length="$CODEC_STEPS" \
        --set optim.warmup=$((CODEC_STEPS * 3 / 10 + 1))
    rm -rf "$OUT/latents-$1-parts"
    "$PYTHON" runs/nano_parts.py "$OUT/$1-autoencoder/export" "$OUT/latents-$1-parts"
    denoise "latents-$1" "$LATENTS_STEPS" "$OUT/latents-$1-parts"
}
arm_latents-plain() { latents plain 0; }
arm_latents-semantic() { latents semantic 0.05; }

mkdir -p "$OUT"
for arm in "$@"; do
    if [[ " ${ARMS[*]} " != *" $arm "* ]]; then
        echo "nano_arms: arm $arm is not known; ${ARMS[*]} are" >&2
        exit 2
    fi
done
for arm in "${@:-${ARMS[@]}}"; do
    if [[ -e $OUT/$arm.json ]]; then
        echo "== $arm is done; remove $OUT/$arm.json to run it again"
        continue
    fi
    echo "== $arm"
    rm -rf "${OUT:?}/$arm"
    "arm_$arm"
done
