#!/usr/bin/env bash
# Train the embedded model on a lent GPU: a machine without network, for minutes, with little room on the way to it.
#
#   runs/nano_gpu.sh pack              here: what travels beside this repository, in one folder
#   runs/nano_gpu.sh 1                 there: unpack, draw and encode, the autoencoder if none was packed, 128 pixels
#   runs/nano_gpu.sh 2                 there: the same weights at 256 pixels
#   runs/nano_gpu.sh 3                 there: the same, to the end of the schedule
#   runs/nano_gpu.sh take N RESULTS    here: what call N sent back, as a pipeline folder
#
# 25 minutes in three calls of less than nine, back to back, so that scenes drawn by one are still there for the next.
# A call starts from what the one before exported; optimiser state stays behind. docs/nano_training.md explains it.
#
#   PACK=runs/nano-pack     the folder that travels
#   WORK=runs/nano-gpu      everything that is made and stays where it is made
#   OUT=$WORK/out           there: the results of a call, at most 8 files of less than 16 MB
#   PARTS=FOLDER            for `pack` and `take`: frozen parts whose autoencoder is trained (runs/nano_cpu.sh makes them;
#                           leanlens/nano has them); without it call 1 trains one
#   START=FOLDER            for call 1: a pipeline folder whose weights the denoiser starts from
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
COMPILE=${COMPILE:-true}

# The budgets. CALL_MINUTES counts from the first line of a call to its last; LAST_SECONDS of it are for export and way back.
CALL_MINUTES=${CALL_MINUTES:-8} # a whole number
LAST_SECONDS=${LAST_SECONDS:-60}
AUTOENCODER_MINUTES=${AUTOENCODER_MINUTES:-2.5}
LIBRARY=${LIBRARY:-full}
CROP_SCENES=20000   # for the autoencoder
SCENES_128=300000   # for the denoiser
SCENES_256=240000
TRAVEL_MIB=${TRAVEL_MIB:-64} # what the way there lets through, this repository included
PIECE=14000000               # bytes of a file on the way back
PROMPT="two red apples and a yellow banana on a blue table, flat style"

# Packages that a machine with torch and transformers may lack, for its Python.
WHEELS=(diffusers pydantic pydantic-core annotated-types typing-inspection importlib_metadata zipp efficientnet-lite-pytorch)
WHEEL_PYTHON=${WHEEL_PYTHON:-3.12}

shrink=()
short=()
if [[ $SCALE == tiny ]]; then
    LIBRARY=sample CROP_SCENES=64 SCENES_128=64 SCENES_256=64 AUTOENCODER_MINUTES=2
    COMPILE=false
    short=(--set train.steps=3 --set optim.length=3 --set optim.warmup=1)
    shrink=("${short[@]}" --set train.micro_batches=1 --set model.num_layers=1)
fi

began=$(date +%s)
deadline=$((began + CALL_MINUTES * 60))
left() { echo $((deadline - $(date +%s))); }
say() { echo "== $(($(date +%s) - began)) s: $*"; }
lens() { "$PYTHON" -m leanlens "$@"; }

# ---------------------------------------------------------------------------------------------------- here: pack

pack() {
    rm -rf "$PACK"
    "$PYTHON" runs/nano_pack.py pack "$PACK" --library "$LIBRARY" ${PARTS:+--parts "$PARTS"}
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

# --------------------------------------------------------------------------------------------- there: three calls

# What every call needs; what an earlier call left is used again.
prepare() {
    export PYTHONPATH="$PWD:$WORK/site:$WORK/wheels${PYTHONPATH:+:$PYTHONPATH}"
    export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=true LEANLENS_SCENES="$WORK/cache"
    if [[ -d $PACK/wheels && ! -d $WORK/wheels ]]; then
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
            --target "$WORK/wheels.part" "$PACK"/wheels/*.whl
        mv "$WORK/wheels.part" "$WORK/wheels"
    fi
    if [[ $SCALE != tiny ]]; then
        "$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no GPU here"; print(torch.cuda.get_device_name())'
    fi
    "$PYTHON" runs/nano_pack.py unpack "$PACK" "$WORK"
    say "unpacked"
    if [[ -d $PACK/parts ]]; then
        parts=$PACK/parts
    else
        parts=$WORK/parts
        if [[ ! -e $parts/model_index.json ]]; then autoencoder; fi
    fi
}

# The autoencoder and, with it, the frozen parts. The crops are six times as many a step as on a CPU.
autoencoder() {
    lens scenes build --out "$WORK/crops" --num "$CROP_SCENES" --seed 77 --size 256 --sources "$WORK/library"
    lens train recipes/nano-autoencoder.toml --set run.dir="$WORK/autoencoder" --set crops.sources="['$WORK/crops']" \
        --set crops.pictures=24 --set train.steps=100000 --set train.minutes="$AUTOENCODER_MINUTES" \
        --set train.save_every=100000 --set optim.lr=5e-4 ${short[@]+"${short[@]}"}
    rm -rf "$parts"
    "$PYTHON" runs/nano_parts.py "$WORK/autoencoder/export" "$parts"
    say "autoencoder"
}

# Call N: denoise N, with further --set, until the call's time is up, and everything that goes back.
denoise() {
    local number=$1 run=$WORK/call-$1 from=$START
    shift
    if [[ -e $WORK/call-$((number - 1))/export ]]; then from=$WORK/call-$((number - 1))/export; fi
    if [[ -z $from && $number != 1 ]]; then say "the export of call $((number - 1)) is not here: from random weights"; fi
    rm -rf "$run" "$run-probe"
    # SIGTERM, should the pace drop, loses nothing: the run saves its state, and the export below takes that.
    timeout --foreground --signal=TERM --kill-after=20 $(($(left) - LAST_SECONDS / 2)) \
        "$PYTHON" runs/nano_train.py recipes/nano-gpu.toml ${until[@]+"${until[@]}"} \
        --set run.dir="$run" --set run.seed="$number" --set model.parts="$parts" ${from:+--set init.from="$from"} \
        --set data.scenes.sources="$WORK/library" --set data.cache="$WORK/encoded" "$@" \
        --set train.compile="$COMPILE" ${shrink[@]+"${shrink[@]}"} || say "stopped before its last step"
    if [[ ! -e $run/export/model_index.json ]]; then
        say "exporting the latest of $(ls "$run/checkpoints")"
        lens export "$run" -o "$run/export"
    fi
    say "trained"
    send_back "$number" "$run"
}

# At most eight files: the transformer (and the autoencoder) in pieces, two pictures, the metrics, the log.
send_back() {
    rm -rf "$2/half"
    "$PYTHON" runs/nano_pack.py halve "$2/export" "$2/half"
    tar --create --directory "$2/half" . | split --bytes="$PIECE" --numeric-suffixes - "$OUT/export.tar."
    gzip --stdout "$2/metrics.jsonl" >"$OUT/metrics.jsonl.gz"
    local size=256x256
    if [[ $SCALE == tiny ]]; then size=64x64; fi
    lens generate "$PROMPT" --model "$2/export" --seed 0 -n 2 --size "$size" -o "$OUT/call-$1-{seed}.png"
    say "done: $(ls "$OUT" | wc -l) files, $(du --summarize --bytes "$OUT" | cut -f1) bytes in $OUT"
}

# 128 pixels, large things and the first sentences of the captions: two graphs, small steps, most of what there is to know.
call_1() {
    local batch=384
    if [[ $SCALE == tiny ]]; then batch=4; fi
    denoise 1 --set data.scenes.num="$SCENES_128" --set data.scenes.size=128 --set data.scenes.seed=1 \
        --set data.scenes.least=44 --set data.caption_words=36 --set data.text_multiple=64 \
        --set data.buckets="[{base = 128, batch = $batch, sizes = [[128, 128], [96, 160], [160, 96]]}]" \
        --set optim.lr=1.5e-3 --set optim.muon_lr=3e-3 --set optim.cooldown=0.15
}

# 256 pixels, whole captions, a constant rate nearly to the end.
call_2() { denoise 2 --set data.scenes.num="$SCENES_256" ${buckets[@]+"${buckets[@]}"} --set optim.cooldown=0.1; }

# The same scenes once more, and the rate falls.
call_3() { denoise 3 --set data.scenes.num="$SCENES_256" ${buckets[@]+"${buckets[@]}"} --set optim.cooldown=0.8; }

call() {
    mkdir -p "$OUT" "$WORK"
    rm -f "$OUT"/{export.tar.*,metrics.jsonl.gz,call-*.png,log.txt}
    exec > >(tee "$OUT/log.txt") 2>&1
    say "call $1, $CALL_MINUTES minutes"
    until=(--until $((deadline - LAST_SECONDS)))
    buckets=()
    if [[ $SCALE == tiny ]]; then
        until=()
        buckets=(--set "data.buckets=[{base = 256, batch = 4, sizes = [[256, 256], [208, 320], [320, 208]]}]")
    fi
    prepare
    "call_$1"
}

# ------------------------------------------------------------------------------------------------- here: results

# A pipeline folder where runs/nano_cpu.sh looks for one: its stages embed, evaluate and gallery do the rest.
take() {
    local taken=$WORK/taken-$1 export=$WORK/denoise-256/export
    rm -rf "$taken" "$export"
    mkdir -p "$taken" "$(dirname "$export")"
    cat "$2"/export.tar.* | tar --extract --directory "$taken"
    if [[ -d $PACK/parts ]]; then
        cp -r "$PACK/parts" "$export"
    else
        "$PYTHON" runs/nano_parts.py "$taken/vae" "$export"
        rm -rf "$export/transformer"
    fi
    cp -r "$taken/transformer" "$export/transformer"
    echo "$export"
    echo "next: OUT=$WORK LIBRARY=$LIBRARY runs/nano_cpu.sh embed evaluate gallery"
}

case ${1:-} in
pack) pack ;;
1 | 2 | 3) call "$1" ;;
take)
    [[ $# == 3 ]] || {
        echo "nano_gpu: take needs the number of the call and the folder of its results" >&2
        exit 2
    }
    take "$2" "$3"
    ;;
*)
    echo "nano_gpu: ${1:-nothing} is not known; pack, 1, 2, 3 and take are" >&2
    exit 2
    ;;
esac
