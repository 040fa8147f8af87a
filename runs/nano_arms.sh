#!/usr/bin/env bash
# Short runs of the embedded model's denoiser that differ in one choice each, with equal time: which text features, which
# captions, which places, which weights, which autoencoder. What they found is in docs/log.md.
#
#   runs/nano_arms.sh [ARM...]      all, or those named:
#   text-three      MiniLM, layers 0, 2 and 3: all others differ from this one
#   text-last       MiniLM, layer 3 alone                        channels-plain    every latent channel weighs the same
#   text-gptoss     a small GPT-OSS learnt on the captions       latents-plain      an autoencoder without semantic loss
#   captions-brief  brief captions alone                         latents-semantic   the same time with it
#   places-free     things of any size anywhere
#
# Each arm starts from random weights on scenes of 128 pixels and is measured by its loss over the last fifth of its
# steps (of captions and latents that are the same), by what it does with words that no caption had, and by pictures of
# held-out scenes. One JSON file for each is left in $OUT; an arm that has one is not run again.
#
#   MINUTES=6        of training for each; the autoencoders of the last two get as much, and so does the language model
#   OUT=runs/nano-arms   NANO=leanlens/nano   LIBRARY=everyday   PYTHON=python   SCALE=tiny (a rehearsal)
set -euo pipefail
cd "$(dirname "$0")/.."

SCALE=${SCALE:-full}
OUT=${OUT:-runs/nano-arms}
NANO=${NANO:-leanlens/nano}
LIBRARY=${LIBRARY:-everyday}
PYTHON=${PYTHON:-python}
MINUTES=${MINUTES:-6}
QUESTIONS=45
PICTURES=3
SCENES=3000
shrink=()
if [[ $SCALE == tiny ]]; then
    MINUTES=0.2 LIBRARY=sample QUESTIONS=3 PICTURES=0 SCENES=48
    shrink=(--set train.compile=false --set model.num_layers=1 --set data.scenes.num=64
        --set 'data.buckets=[{base = 128, batch = 4, sizes = [[128, 128]]}]')
fi
ARMS=(text-three text-last text-gptoss captions-brief places-free channels-plain latents-plain latents-semantic)

# What the embedded autoencoder asks of recipes/nano-128.toml, whose own has 8 channels.
embedded=(--set model.out_channels=16 --set "train.channel_weights=$("$PYTHON" -c '
import tomllib
print(tomllib.load(open("recipes/nano-gpu.toml", "rb"))["train"]["channel_weights"])')")

# denoise ARM PARTS [--set ...]: the run, and what is measured of it.
denoise() {
    local arm=$1 parts=$2 words=null
    shift 2
    "$PYTHON" runs/nano_train.py recipes/nano-128.toml --minutes "$MINUTES" --set run.dir="$OUT/$arm" \
        --set model.parts="$parts" --set data.cache="$OUT/cache" --set data.scenes.sources="$LIBRARY" \
        --set save.every=1000000 "$@" ${shrink[@]+"${shrink[@]}"}
    if [[ $PICTURES != 0 ]]; then
        words=$("$PYTHON" benchmarks/words.py --model "$OUT/$arm/export" --size 128 --pictures "$PICTURES" --sources "$LIBRARY")
    fi
    "$PYTHON" benchmarks/quality.py --model "$OUT/$arm/export" --num "$QUESTIONS" --sources "$LIBRARY" --size 128 \
        --prompts brief >"$OUT/$arm/quality.json"
    WORDS=$words "$PYTHON" - "$arm" "$OUT/$arm" >"$OUT/$arm.json.part" <<'PY'
import json
import os
import sys
from pathlib import Path

arm, folder = sys.argv[1], Path(sys.argv[2])
lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
last = lines[-max(1, len(lines) // 5) :]
quality, words = json.loads((folder / "quality.json").read_text()), json.loads(os.environ["WORDS"])
model, *_ = (rates for name, rates in quality["rates"].items() if name not in ("real", "reconstruction"))
print(
    json.dumps(
        {
            "arm": arm,
            "machine": quality["machine"],
            "pictures": lines[-1]["images"],
            "seconds": round(lines[-1]["seconds"], 1),
            "loss_of_last_fifth": round(sum(line["loss"] for line in last) / len(last), 4),
            "understood": words and words["understood"],
            "words": words and words["words"],
            "rates": {name: rate and [rate["yes"], rate["num"]] for name, rate in model.items()},
            "fid (fid-helper)": quality["fid (fid-helper)"],
        },
        indent=1,
    )
)
PY
    mv "$OUT/$arm.json.part" "$OUT/$arm.json"
}

scenes() {
    "$PYTHON" -m leanlens scenes build --out "$OUT/scenes" --num "$SCENES" --seed 78 --size 256 --sources "$LIBRARY"
}

arm_text-three() { denoise text-three "$NANO" "${embedded[@]}"; }
arm_text-last() { denoise text-last "$NANO" "${embedded[@]}" --set "model.selected_layer_index=[3]"; }
arm_places-free() {
    denoise places-free "$NANO" "${embedded[@]}" --set data.scenes.grid=0 --set data.scenes.step=0 \
        --set data.scenes.tidy=false --set data.scenes.most=0
}
arm_channels-plain() {
    denoise channels-plain "$NANO" "${embedded[@]}" \
        --set "train.channel_weights=[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"
}
arm_captions-brief() { denoise captions-brief "$NANO" "${embedded[@]}" --set data.caption=brief; }

arm_text-gptoss() {
    scenes
    "$PYTHON" -m leanlens train recipes/nano-language.toml --set run.dir="$OUT/language" \
        --set captions.sources="['$OUT/scenes']" --set train.minutes="$MINUTES"
    rm -rf "$OUT/gptoss-parts"
    "$PYTHON" runs/nano_parts.py "$NANO/vae" "$OUT/gptoss-parts" "$OUT/language/export"
    denoise text-gptoss "$OUT/gptoss-parts" "${embedded[@]}" --set model.enc_hidden_dim=256 \
        --set "model.selected_layer_index=[1, 3, 5]"
}

latents() {
    scenes
    "$PYTHON" -m leanlens train recipes/nano-autoencoder.toml --set run.dir="$OUT/$1-autoencoder" \
        --set crops.sources="['$OUT/scenes']" --set train.minutes="$MINUTES" --set losses.semantic="$2"
    rm -rf "$OUT/$1-parts"
    "$PYTHON" runs/nano_parts.py "$OUT/$1-autoencoder/export" "$OUT/$1-parts"
    denoise "latents-$1" "$OUT/$1-parts"
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
