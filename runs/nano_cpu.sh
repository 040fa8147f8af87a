#!/usr/bin/env bash
# Trains nano on a CPU, from drawings to the embedded model and its gallery. Live.
#
#   runs/nano_cpu.sh [STAGE...]        every stage that is not whole yet, or only those named, in this order:
#   sources scenes autoencoder parts denoise-128 denoise-256 decoder embed evaluate gallery
#
# A little over three hours on two cores. Each stage starts from what the one before exported, says what it may take, and
# leaves a marker in $OUT/done when it is whole; a stage that was stopped goes on where it was when the same command is
# given again.
# docs/nano_training.md explains it.
#
#   OUT=runs/nano           where everything is written but the embedded model itself
#   NANO=leanlens/nano      where `embed` writes
#   INT8=1                  `embed` stores the denoiser in INT8, half as large; empty: in bfloat16
#   LIBRARY=everyday        drawings the denoiser learns: everyday (68 concepts), full (all), sample, or a folder
#   PYTHON=python           the interpreter that leanlens is installed in, with the extras data, eval and nano
#   SCALE=tiny              a rehearsal of every stage in a few minutes, on 64 scenes and 3 steps; what it draws is noise
set -euo pipefail
cd "$(dirname "$0")/.."

SCALE=${SCALE:-full}
OUT=${OUT:-runs/nano}
PYTHON=${PYTHON:-python}

# The budgets: what each stage is given on two cores. No stage is let run for longer than STAGE_MINUTES at a time.
STAGE_MINUTES=${STAGE_MINUTES:-80}
AUTOENCODER_MINUTES=${AUTOENCODER_MINUTES:-25} # the schedule follows the clock: it ends when the time does
DECODER_MINUTES=${DECODER_MINUTES:-12}         # the same
STEPS_128=${STEPS_128:-14000}                  # of 16 pictures: 40 minutes at 93 pictures a second
STEPS_256=${STEPS_256:-7000}                   # of 8 pictures: 40 minutes at 23 pictures a second

# How much there is to learn from.
CROP_SCENES=6000 # for the autoencoder
CROP_LIBRARY=full
LIBRARY=${LIBRARY:-everyday}
NANO=${NANO:-leanlens/nano}
QUESTIONS=200 # held-out scenes that the evaluation asks for
shrink=()     # further --set of both denoisers

if [[ $SCALE == tiny ]]; then
    AUTOENCODER_MINUTES=2 DECODER_MINUTES=2 STEPS_128=3 STEPS_256=3
    CROP_SCENES=64 CROP_LIBRARY=sample LIBRARY=sample QUESTIONS=12
    if [[ $NANO == leanlens/nano ]]; then NANO=$OUT/nano; fi # a rehearsal never touches the package
    shrink=(--set train.compile=false --set train.micro_batches=1 --set model.num_layers=1
        --set data.scenes.num=64 --set data.scenes.validation=8)
fi

STAGES=(sources scenes autoencoder parts denoise-128 denoise-256 decoder embed evaluate gallery)
declare -A BUDGET=(
    [sources]="5 minutes, most of it a download of 130 MB"
    [scenes]="1 minute"
    [autoencoder]="$AUTOENCODER_MINUTES minutes, and one for the statistics of its latents"
    [parts]="1 minute"
    [denoise-128]="45 minutes: $STEPS_128 steps"
    [denoise-256]="45 minutes: $STEPS_256 steps"
    [decoder]="$DECODER_MINUTES minutes"
    [embed]="1 minute"
    [evaluate]="20 minutes: $QUESTIONS held-out prompts"
    [gallery]="5 minutes: 100 pictures"
)

within_limit() { timeout --foreground --signal=TERM --kill-after=120 "${STAGE_MINUTES}m" "$@"; }
lens() { within_limit "$PYTHON" -m leanlens "$@"; }

# What a stage needs of the one before.
need() {
    [[ -e $1 ]] || {
        echo "nano_cpu: $1 is missing; run the stage $2 first" >&2
        exit 2
    }
}

# The icon sets through npm's own client, checked and drawn once; a sheet of scenes to look at.
stage_sources() {
    if [[ $SCALE != tiny ]]; then lens scenes sources; fi
    lens scenes preview --num 24 --sources "$LIBRARY" --out "$OUT/scenes.png"
}

# What the autoencoder learns from: pictures of the whole library, whatever the denoiser is taught later.
stage_scenes() {
    lens scenes build --out "$OUT/scenes" --num "$CROP_SCENES" --seed 77 --size 256 --sources "$CROP_LIBRARY"
}

# 16 x 16 pixels to 32 numbers and back.
stage_autoencoder() {
    local short=()
    need "$OUT/scenes/manifest.json" scenes
    if [[ $SCALE == tiny ]]; then short=(--set train.steps=3 --set optim.length=3 --set optim.warmup=1); fi
    lens train recipes/nano/cpu-autoencoder.toml --set run.dir="$OUT/autoencoder" \
        --set crops.sources="['$OUT/scenes']" --set train.minutes="$AUTOENCODER_MINUTES" ${short[@]+"${short[@]}"}
    need "$OUT/autoencoder/export/config.json" autoencoder
}

# The frozen parts in one folder: this autoencoder, and the first layers of MiniLM.
stage_parts() {
    need "$OUT/autoencoder/export/config.json" autoencoder
    rm -rf "$OUT/parts"
    "$PYTHON" runs/nano_parts.py "$OUT/autoencoder/export" "$OUT/parts"
}

# What things look like, where a step is cheap: 128 x 128 pixels, few things, the first sentences of the captions.
stage_denoise-128() {
    need "$OUT/parts/model_index.json" parts
    denoise cpu-128 denoise-128 "$STEPS_128" 128 "[128, 128]"
}

# The same weights at 256 x 256 pixels, where several things stand, with longer captions.
stage_denoise-256() {
    need "$OUT/denoise-128/export/model_index.json" denoise-128
    denoise cpu-256 denoise-256 "$STEPS_256" 256 "[256, 256], [208, 320], [320, 208]" \
        --set init.from="$OUT/denoise-128"
}

denoise() {
    local recipe=$1 name=$2 steps=$3 base=$4 sizes=$5 small=()
    shift 5
    if [[ $SCALE == tiny ]]; then
        small=("${shrink[@]}" --set data.buckets="[{base = $base, batch = 4, sizes = [$sizes]}]" --set optim.warmup=1)
    fi
    lens train "recipes/nano/$recipe.toml" \
        --set run.dir="$OUT/$name" --set model.parts="$OUT/parts" \
        --set data.cache="$OUT/cache" --set data.scenes.sources="$LIBRARY" \
        --set train.steps="$steps" --set optim.length="$steps" "$@" ${small[@]+"${small[@]}"}
    need "$OUT/$name/export/model_index.json" "$name" # a run that was stopped in time has none yet
}

# The decoder alone, on latents that are a little wrong, as the denoiser's are.
stage_decoder() {
    local short=()
    need "$OUT/scenes/manifest.json" scenes
    need "$OUT/autoencoder/export/config.json" autoencoder
    if [[ $SCALE == tiny ]]; then short=(--set train.steps=3 --set optim.length=3 --set optim.warmup=1); fi
    lens train recipes/nano/cpu-decoder.toml --set run.dir="$OUT/decoder" --set start="$OUT/autoencoder/export" \
        --set crops.sources="['$OUT/scenes']" --set train.minutes="$DECODER_MINUTES" ${short[@]+"${short[@]}"}
    need "$OUT/decoder/export/config.json" decoder
}

# Into the package: bfloat16 or INT8, in files of less than 16 MB; with the decoder that learnt last, where there is one.
stage_embed() {
    need "$OUT/denoise-256/export/model_index.json" denoise-256
    local decoder=()
    if [[ -e $OUT/decoder/export/config.json ]]; then decoder=("$OUT/decoder/export"); fi
    "$PYTHON" runs/nano_embed.py ${INT8:+--int8} "$OUT/denoise-256/export" "$NANO" "$LIBRARY" ${decoder[@]+"${decoder[@]}"}
}

# Held-out scenes, graded by means that took no part in training.
stage_evaluate() {
    local model=nano
    need "$NANO/model_index.json" embed
    if [[ $NANO != leanlens/nano ]]; then model=$NANO; fi
    "$PYTHON" benchmarks/quality.py --model "$model" --num "$QUESTIONS" --sources "$LIBRARY" >"$OUT/quality.json.part"
    mv "$OUT/quality.json.part" "$OUT/quality.json"
}

# docs/gallery.md, from the embedded model.
stage_gallery() {
    if [[ $NANO != leanlens/nano ]]; then
        echo "the gallery shows the embedded model; NANO=$NANO has none"
        return
    fi
    need "$NANO/model_index.json" embed
    "$PYTHON" docs/make_gallery.py
}

main() {
    local stage began
    mkdir -p "$OUT/done"
    for stage in "$@"; do
        if [[ ! " ${STAGES[*]} " == *" $stage "* ]]; then
            echo "nano_cpu: stage $stage is not known; ${STAGES[*]} are" >&2
            exit 2
        fi
    done
    for stage in "${@:-${STAGES[@]}}"; do
        if [[ -e $OUT/done/$stage ]]; then
            echo "== $stage is whole ($(cat "$OUT/done/$stage")); remove $OUT/done/$stage to do it again"
            continue
        fi
        echo "== $stage: about ${BUDGET[$stage]}"
        began=$SECONDS
        "stage_$stage"
        echo "$((SECONDS - began)) s" >"$OUT/done/$stage"
        echo "== $stage took $((SECONDS - began)) s"
    done
}

main "$@"
