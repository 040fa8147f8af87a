#!/usr/bin/env bash
# Trains nano on a GPU of a machine without network. Live.
#
# The machine is there for minutes at a time, and little can be sent to it.
#
#   runs/nano_gpu.sh pack              here: what travels beside this repository, in one folder
#   runs/nano_gpu.sh autoencoder       there: the autoencoder; PROBE=1: and how fast the denoiser will learn
#   runs/nano_gpu.sh take autoencoder RESULTS    here: the frozen parts with it; `PARTS=... pack` sends them back
#   runs/nano_gpu.sh denoiser          there: begin to train, or look how far it is; call it again until it is done
#   runs/nano_gpu.sh take 3 RESULTS    here: what came back, as a pipeline folder
#
# 28 minutes in three calls of less than ten: one for the autoencoder, two for the denoiser, back to back. The denoiser
# learns in a process of its own that outlives a call: scenes are drawn, and those of 256 pixels while those of 128 are
# learnt from. Where no process may outlive a call, `1`, `2` and `3` do the same in three: 128 pixels, 256 pixels, and
# 256 with a falling rate, each from what the one before exported. docs/nano_training.md explains it.
#
#   PACK=runs/nano-pack     the folder that travels
#   WORK=runs/nano-gpu      everything that is made and stays where it is made
#   OUT=$WORK/out           there: the results of a call, at most 8 files of less than 16 MB
#   PARTS=FOLDER            for `pack`: frozen parts whose autoencoder is trained; without it the denoiser needs the one
#                           of the call `autoencoder` on the same machine. For `take`: those that were packed
#   START=FOLDER            a pipeline folder whose weights the denoiser starts from
#   START_AUTOENCODER=FOLDER    an autoencoder to go on from; leanlens/nano/vae, copied into PACK, for one
#   COMPILE_AUTOENCODER=true    compile it, where that is right and faster: some of its minutes for a quicker rest
#   SECONDS_OF_CALL=540     there: from the first line of a call to its last
#   SECONDS_128=370         there: from the beginning of the denoiser to the end of its pictures of 128 pixels
#   SECONDS_IN_ALL=1045     there: and to its end
#   COMPILE=false           there: without compiled blocks, should the compiler fail
#   SCALE=tiny              a rehearsal on a CPU: the sample's drawings, 64 scenes, a few steps; what it draws is noise
set -euo pipefail
cd "$(dirname "$0")/.."

SCALE=${SCALE:-full}
PYTHON=${PYTHON:-python3}
PACK=$(realpath --canonicalize-missing "${PACK:-runs/nano-pack}")
WORK=$(realpath --canonicalize-missing "${WORK:-runs/nano-gpu}")
OUT=$(realpath --canonicalize-missing "${OUT:-$WORK/out}")
PARTS=${PARTS:-}
START=${START:-}
START_AUTOENCODER=${START_AUTOENCODER:-}
COMPILE_AUTOENCODER=${COMPILE_AUTOENCODER:-false}
COMPILE=${COMPILE:-true}

# The budgets. LAST_SECONDS of a call are for export and way back.
SECONDS_OF_CALL=${SECONDS_OF_CALL:-540}
SECONDS_128=${SECONDS_128:-370}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-1045}
LAST_SECONDS=${LAST_SECONDS:-40}
AUTOENCODER_MINUTES=${AUTOENCODER_MINUTES:-3}
DECODER_MINUTES=${DECODER_MINUTES:-0.8}
LIBRARY=${LIBRARY:-common}
PIXELS=${PIXELS:-192} # of a packed drawing's longer side
CROP_SCENES=16000     # for the autoencoder
SCENES_128=80000      # for the denoiser
SCENES_LARGE=48000    # of 256 pixels, with things of 64 pixels at least
SCENES_256=96000
AT_LEAST=${AT_LEAST:-12000}  # encoded scenes that a call waits for
PART=2000                    # scenes in a file of encoded ones
OPENING=${OPENING:-25}       # seconds from the start of a training command to its first step
DRAWING=${DRAWING:-12}       # processes; the rest is for what trains
TRAVEL_MIB=${TRAVEL_MIB:-64} # what the way there lets through, this repository included
PIECE=15500000               # bytes of a file on the way back
PROMPT="two red apples and a yellow banana on a blue table, flat style"
SIZES_128="sizes = [[128, 128]]"
SIZES_256="sizes = [[256, 256], [192, 320], [320, 192]]"

# Packages that a machine with torch and transformers may lack, for its Python.
WHEELS=(diffusers pydantic pydantic-core annotated-types typing-inspection importlib_metadata zipp efficientnet-lite-pytorch)
WHEEL_PYTHON=${WHEEL_PYTHON:-3.12}

shrink=()
short=()
crops=()
batch_128=${BATCH_128:-1024}
batch_256=${BATCH_256:-512}
if [[ $SCALE == tiny ]]; then
    LIBRARY=sample PIXELS=96 CROP_SCENES=64 SCENES_128=64 SCENES_LARGE=64 SCENES_256=64 AT_LEAST=1 DRAWING=2
    AUTOENCODER_MINUTES=2 DECODER_MINUTES=2 COMPILE=false
    batch_128=4 batch_256=4
    short=(--set train.steps=3 --set optim.length=3 --set optim.warmup=1)
    crops=("${short[@]}" --set crops.pictures=2 --set crops.side=64)
    shrink=("${short[@]}" --set train.micro_batches=1 --set model.num_layers=1)
fi

began=$(date +%s)
deadline=$((began + SECONDS_OF_CALL))
left() { echo $((deadline - $(date +%s))); }
say() { echo "== $(($(date +%s) - began)) s: $*"; }
lens() { "$PYTHON" -m leanlens "$@"; }

# ---------------------------------------------------------------------------------------------------- here: pack

pack() {
    rm -rf "$PACK"
    "$PYTHON" runs/nano_pack.py pack "$PACK" --library "$LIBRARY" --pixels "$PIXELS" ${PARTS:+--parts "$PARTS"}
    if [[ $SCALE != tiny ]]; then
        "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --constraint constraints.txt \
            --python-version "$WHEEL_PYTHON" --implementation cp --platform manylinux2014_x86_64 \
            --platform manylinux_2_28_x86_64 --dest "$PACK/wheels" "${WHEELS[@]}"
    fi
    weigh
}

# Says what travels in all, and what may stay if that is too much.
weigh() {
    local tree folder
    tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 stat --format=%s 2>/dev/null |
        awk '{ total += $1 } END { print total }') || true
    folder=$(du --summarize --bytes "$PACK" | cut -f1)
    echo "travels: $(((tree + folder) / 1048576)) MiB of at most $TRAVEL_MIB, $((folder / 1048576)) of them in $PACK"
    if ((tree + folder > TRAVEL_MIB * 1048576)); then
        echo "too much: move leanlens/nano out of the way until the results are back; no call reads it" >&2
    fi
}

# -------------------------------------------------------------------------------------------------- there: the calls

# What every call needs; what an earlier call left is used again.
prepare() {
    export PYTHONPATH="$PWD:$PWD/runs:$WORK/site:$WORK/wheels${PYTHONPATH:+:$PYTHONPATH}"
    export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=true LEANLENS_SCENES="$WORK/cache"
    export TORCHINDUCTOR_CACHE_DIR="$WORK/compiled"
    if [[ -d $PACK/wheels && ! -d $WORK/wheels ]]; then
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
            --target "$WORK/wheels.part" "$PACK"/wheels/*.whl
        mv "$WORK/wheels.part" "$WORK/wheels"
    fi
    if [[ $SCALE != tiny ]]; then
        "$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no GPU here"; print(torch.cuda.get_device_name())'
    fi
    "$PYTHON" runs/nano_pack.py unpack "$PACK" "$WORK"
    parts=$WORK/parts
    if [[ -d $PACK/parts ]]; then parts=$PACK/parts; fi
    say "unpacked"
}

call_autoencoder() {
    local drawn=(--set crops.scenes.num="$CROP_SCENES" --set crops.scenes.sources="$WORK/library")
    lens train recipes/nano/gpu-autoencoder.toml --set run.dir="$WORK/autoencoder/all" "${drawn[@]}" \
        --set train.minutes="$AUTOENCODER_MINUTES" --set train.compile="$COMPILE_AUTOENCODER" \
        ${START_AUTOENCODER:+--set start="$START_AUTOENCODER"} ${crops[@]+"${crops[@]}"}
    lens train recipes/nano/gpu-decoder.toml --set run.dir="$WORK/autoencoder/decoder" "${drawn[@]}" \
        --set train.minutes="$DECODER_MINUTES" --set train.compile="$COMPILE_AUTOENCODER" \
        --set start="$WORK/autoencoder/all/export" ${crops[@]+"${crops[@]}"}
    "$PYTHON" runs/nano_channels.py "$WORK/autoencoder/decoder/export" "$WORK/library" >"$WORK/autoencoder/channels.json"
    rm -rf "$parts"
    "$PYTHON" runs/nano_parts.py "$WORK/autoencoder/decoder/export" "$parts"
    say "autoencoder"
    tar --create --directory "$parts" vae | split --bytes="$PIECE" --numeric-suffixes - "$OUT/export.tar."
    cp "$WORK/autoencoder/channels.json" "$OUT"
    for part in all decoder; do
        gzip --stdout "$WORK/autoencoder/$part/metrics.jsonl" >"$OUT/metrics-$part.jsonl.gz"
    done
    if [[ ${PROBE:-} ]]; then probe; fi
}

# How fast the denoiser will learn, from a few steps of each size.
probe() {
    local number=0 base
    for base in 128 256; do
        stage "$base"
        lens scenes encode recipes/nano/gpu-denoiser.toml --out "$WORK/probe-$base" --set model.parts="$parts" \
            --set data.scenes.sources="$WORK/library" "${stage[@]}" --set data.scenes.num=6000
        say "6000 scenes of $base pixels"
        timeout --foreground 150 "$PYTHON" -m leanlens train recipes/nano/gpu-denoiser.toml \
            --set data.encoded="['$WORK/probe-$base']" --set run.dir="$WORK/probe-run-$base" --set model.parts="$parts" \
            "${stage[@]}" --set train.steps=40 --set optim.length=40 --set optim.warmup=4 \
            --set train.compile="$COMPILE" || say "probe of $base pixels failed"
        cut --delimiter=, --fields=1-3,13- "$WORK/probe-run-$base/metrics.jsonl" | tail --lines=6
        say "probe of $base pixels"
    done
}

# Sets `stage` to what scenes and batches of 128 or 256 pixels are, or of 256 pixels with large things.
stage() {
    case $1 in
    128) stage=(
        --set data.scenes.num="$SCENES_128" --set data.scenes.size=128 --set data.scenes.seed=1
        --set data.scenes.least=64 --set data.scenes.most=96 --set data.scenes.facts_first=0.7
        --set data.caption_words=40 --set data.text_multiple=64
        --set data.buckets="[{base = 128, batch = $batch_128, $SIZES_128}]"
    ) ;;
    large) stage=(
        --set data.scenes.num="$SCENES_LARGE" --set data.scenes.seed=2 --set data.scenes.least=64
        --set data.buckets="[{base = 256, batch = $batch_256, $SIZES_256}]"
    ) ;;
    256) stage=(
        --set data.scenes.num="$SCENES_256" --set data.scenes.seed=3
        --set data.buckets="[{base = 256, batch = $batch_256, $SIZES_256}]"
    ) ;;
    esac
}

is_running() { [[ -e $WORK/$1.pid ]] && kill -0 "$(cat "$WORK/$1.pid")" 2>/dev/null; }

# Draw and encode everything in a process of its own, which goes on while the calls train. What is there stays.
begin_drawing() {
    if is_running drawing; then return; fi
    local name script="true"
    for name in "$@"; do
        if [[ -e $WORK/scenes-$name/whole ]]; then continue; fi
        stage "$name"
        script+="; $(printf '%q ' nice "$PYTHON" -m leanlens scenes encode recipes/nano/gpu-denoiser.toml \
            --out "$WORK/scenes-$name" --workers "$DRAWING" --set model.parts="$parts" \
            --set data.scenes.sources="$WORK/library" "${stage[@]}")"
    done
    setsid bash -c "$script" >>"$WORK/drawing.log" 2>&1 </dev/null &
    echo $! >"$WORK/drawing.pid"
}

# wait_for N FOLDER...: until so many scenes are in the folders, or nothing more is drawn.
wait_for() {
    local least=$1 parts
    shift
    while is_running drawing; do
        parts=$(find "$@" -name 'part-*.safetensors' 2>/dev/null | wc -l) || true
        if ((parts * PART >= least)); then return; fi
        sleep 0.5
    done
}

# Call N: denoise N "FOLDER..." on the scenes that are in these folders, with further words, until `ends`.
denoise() {
    local number=$1 run=$WORK/call-$1 from=$START folders=$2 earlier learnt minutes
    shift 2
    for ((earlier = 1; earlier < number; earlier++)); do
        if [[ -e $WORK/call-$earlier/export ]]; then from=$WORK/call-$earlier/export; fi
    done
    if [[ -z $from && $number != 1 ]]; then say "no export of an earlier call is here: from random weights"; fi
    rm -rf "$run"
    # shellcheck disable=SC2086 # the folders are words
    wait_for "$AT_LEAST" $folders
    learnt="['${folders// /\',\'}']"
    minutes=$(awk -v left="$((ends - OPENING - $(date +%s)))" 'BEGIN { printf "%.2f", left > 60 ? left / 60 : 1 }')
    # SIGTERM, should the pace drop, loses nothing: the run saves its state, and the export below takes that.
    timeout --foreground --signal=TERM --kill-after=20 $(($(left) - LAST_SECONDS / 2)) \
        "$PYTHON" -m leanlens train recipes/nano/gpu-denoiser.toml --set data.encoded="$learnt" \
        --set train.minutes="$minutes" --set train.steps=100000 --set optim.length=100000 \
        --set run.dir="$run" --set run.seed="$number" --set model.parts="$parts" ${from:+--set init.from="$from"} \
        "$@" --set train.compile="$COMPILE" ${shrink[@]+"${shrink[@]}"} || say "stopped before its last step"
    if [[ ! -e $run/export/model_index.json ]]; then
        say "exporting the latest of $(ls "$run/checkpoints")"
        lens export "$run" -o "$run/export"
    fi
    say "trained"
}

# Of call N, at most eight files: the transformer in pieces, a picture, the metrics, the log.
send_back() {
    local run=$WORK/call-$1
    rm -rf "$run/half"
    "$PYTHON" runs/nano_pack.py halve "$run/export" "$run/half"
    tar --create --directory "$run/half" transformer | split --bytes="$PIECE" --numeric-suffixes - "$OUT/export.tar."
    gzip --stdout "$run/metrics.jsonl" >"$OUT/metrics.jsonl.gz"
    local size=256x256
    if [[ $SCALE == tiny ]]; then size=64x64; fi
    lens generate "$PROMPT" --model "$run/export" --seed 0 -n 1 --size "$size" -o "$OUT/call-$1-{seed}.png"
    tail --lines=3 "$WORK/drawing.log" || true
}

# 128 pixels, large things and the first sentences of the captions: two graphs, small steps, most of what there is to know.
call_1() {
    begin_drawing 128 large 256
    stage 128
    denoise 1 "$WORK/scenes-128" "${stage[@]}" \
        --set optim.lr=1e-3 --set optim.muon_lr=2e-3 --set optim.cooldown=0.15
}

# 256 pixels, whole captions, a constant rate nearly to the end.
call_2() {
    begin_drawing large 256
    stage 256
    denoise 2 "$WORK/scenes-large $WORK/scenes-256" "${stage[@]}" --set optim.cooldown=0.1
}

# All scenes that are there by now, and the rate falls.
call_3() {
    begin_drawing large 256
    stage 256
    denoise 3 "$WORK/scenes-large $WORK/scenes-256" "${stage[@]}" --set optim.cooldown=0.9
}

# Both sizes in a row, in a process that outlives the call that began it. What goes back lies in folders of its own.
stages() {
    local back=$WORK/back
    ends=$((began + SECONDS_128 - LAST_SECONDS / 4)) # what goes back is made while the next one begins
    deadline=$((began + SECONDS_128 + LAST_SECONDS)) OUT=$back-1
    prepare
    mkdir -p "$back-1" "$back-3"
    begin_drawing 128 large 256
    if [[ $COMPILE == true ]]; then compile_ahead & fi
    if [[ ! -e $WORK/call-1/export/model_index.json ]]; then call_1; fi
    (send_back 1 && touch "$back-1/whole") &
    ends=$((began + SECONDS_IN_ALL - LAST_SECONDS))
    deadline=$((began + SECONDS_IN_ALL)) OUT=$back-3
    call_3
    send_back 3
    touch "$back-3/whole"
}

# A few steps with pictures of 256 pixels, for what the compiler leaves in its cache.
compile_ahead() {
    stage large
    while is_running drawing && [[ ! -e $WORK/scenes-large/part-00001.safetensors ]]; do sleep 1; done
    nice "$PYTHON" -m leanlens train recipes/nano/gpu-denoiser.toml "${stage[@]}" \
        --set data.encoded="['$WORK/scenes-large']" --set run.dir="$WORK/ahead" --set model.parts="$parts" \
        --set train.steps=6 >"$WORK/ahead.log" 2>&1
    say "compiled ahead"
}

call_denoiser() {
    if [[ ! -e $WORK/back-3/whole ]] && ! is_running stages; then # not begun, or it fell
        OUT="$WORK/back" setsid bash runs/nano_gpu.sh stages >"$WORK/stages.log" 2>&1 </dev/null &
        echo $! >"$WORK/stages.pid"
    fi
    while is_running stages && (($(left) > 15)); do sleep 1; done
    local part
    for part in 1 3; do # what has not gone back yet
        if [[ -e $WORK/back-$part/whole && ! -e $WORK/back-$part/sent ]]; then
            rm -f "$OUT"/*.tar.* "$OUT"/*.gz
            find "$WORK/back-$part" -type f ! -name whole -exec cp {} "$OUT" ";"
            touch "$WORK/back-$part/sent"
        fi
    done
    cp "$WORK/stages.log" "$OUT/log.txt"
    tail --lines=30 "$WORK/stages.log" | cut --characters=-300
    tail --lines=2 "$WORK"/call-*/metrics.jsonl | cut --characters=-300 || true
    if [[ -e $WORK/back-3/whole ]]; then
        say "the denoiser is done"
    elif is_running stages; then
        say "call it again"
    else
        say "it fell; what it said is above, and the next call begins again with what is there"
        return 1
    fi
}

call() {
    mkdir -p "$OUT" "$WORK"
    rm -f "$OUT"/{export.tar.*,metrics*.jsonl.gz,channels.json,call-*.png,log.txt}
    say "call $1, $SECONDS_OF_CALL s"
    ends=$((deadline - LAST_SECONDS))
    if [[ $1 == denoiser ]]; then
        call_denoiser
    else
        exec > >(tee "$OUT/log.txt") 2>&1
        prepare
        "call_$1"
        if [[ $1 != autoencoder ]]; then send_back "$1"; fi
    fi
    say "$(ls "$OUT" | wc -l) files, $(du --summarize --bytes "$OUT" | cut -f1) bytes in $OUT"
}

# ------------------------------------------------------------------------------------------------- here: results

# A pipeline folder where runs/nano_cpu.sh looks for one: its stages embed, evaluate and gallery do the rest.
take() {
    local taken=$WORK/taken-$1 export=$WORK/denoise-256/export
    rm -rf "$taken"
    mkdir -p "$taken"
    cat "$2"/export.tar.* | tar --extract --directory "$taken"
    if [[ $1 == autoencoder ]]; then
        rm -rf "$WORK/parts"
        "$PYTHON" runs/nano_parts.py "$taken/vae" "$WORK/parts"
        cp "$2/channels.json" "$WORK"
        echo "next: train.channel_weights of recipes/nano/gpu-denoiser.toml from $WORK/channels.json; PARTS=$WORK/parts $0 pack"
        return
    fi
    rm -rf "$export"
    mkdir -p "$(dirname "$export")"
    cp -r "${PARTS:-$WORK/parts}" "$export"
    rm -rf "$export/transformer"
    cp -r "$taken/transformer" "$export/transformer"
    echo "$export"
    echo "next: OUT=$WORK LIBRARY=$LIBRARY INT8=1 runs/nano_cpu.sh embed evaluate gallery"
}

case ${1:-} in
pack) pack ;;
autoencoder | denoiser | 1 | 2 | 3) call "$1" ;;
stages) stages ;;
take)
    [[ $# == 3 ]] || {
        echo "nano_gpu: take needs the name of the call and the folder of its results" >&2
        exit 2
    }
    take "$2" "$3"
    ;;
*)
    echo "nano_gpu: invalid call '${1:-}': expected pack, autoencoder, denoiser, 1, 2, 3 or take" >&2
    exit 2
    ;;
esac
