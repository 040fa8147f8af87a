"""`leanlens plan`: what fits a machine, how long a picture or a training run takes, and the command to run.

Comes in: words. Goes out: a plan as text or JSON. Looks up the machine and takes numbers from a model's files or a
recipe; the arithmetic is in `leanlens/plan/`.
"""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.options import IMAGE, MODEL, AsJson, Cfg, Steps, option
from leanlens.install import KERNELS
from leanlens.plan.options import ENCODERS, OFFLOADS, QUANTS, kernels_missing

MACHINE, PINS, TRAINING = "Machine", "Settings to fix", "Training runs"
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "auto": None}


def plan(
    what: Annotated[str, typer.Argument(help="image, train or finetune; the last two need a recipe.")] = "image",
    recipe: Annotated[
        Path | None, typer.Argument(help="With train and finetune: a TOML recipe, or the name of one.")
    ] = None,
    size: Annotated[
        str | None, option(IMAGE, "Size in pixels. Default: the model's own.", metavar="WxH")
    ] = None,
    steps: Steps = None,
    cfg: Cfg = None,
    batch: Annotated[int, option(IMAGE, "Number of images of one prompt, drawn one after the other.")] = 1,
    model: Annotated[
        str, option(MODEL, "Model: nano, turbo, rl, base, or a folder here. Nothing is downloaded.", "-m", "--model")
    ] = "turbo",
    gpu: Annotated[
        str | None, option(MACHINE, "GPU, laptop or chip by name, such as 'RTX 3060 12GB'. Default: this machine.")
    ] = None,
    vram: Annotated[
        float | None, option(MACHINE, "Memory of the GPU, instead of its name or beside it.", metavar="GB")
    ] = None,
    ram: Annotated[float | None, option(MACHINE, "Main memory.", metavar="GB")] = None,
    device: Annotated[str, option(PINS, "Fix the device: cuda, mps or cpu.")] = "auto",
    dtype: Annotated[str, option(PINS, "Fix the precision: bfloat16, float16 or float32.")] = "auto",
    quant: Annotated[str, option(PINS, f"Fix the quantisation: {', '.join(QUANTS)}.")] = "auto",
    offload: Annotated[str, option(PINS, f"Fix what is offloaded: {', '.join(OFFLOADS)}.")] = "auto",
    encoder_on: Annotated[str, option(PINS, f"Fix where the text encoder runs: {', '.join(ENCODERS)}.")] = "auto",
    count: Annotated[int, option(TRAINING, "Number of devices.")] = 1,
    price_per_hour: Annotated[float | None, option(TRAINING, "Price of one device for an hour.")] = None,
    changes: Annotated[
        list[str] | None, option(TRAINING, "Change one key of the recipe. Repeatable.", "--set", metavar="A.B=C")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Predict what fits a machine, what it needs, how long it takes, and the command to run.

    Without --gpu and --vram it plans for this machine. Seconds are predicted, not measured; docs/plan.md says how.
    """
    if what not in ("image", "train", "finetune"):
        raise ValueError(f"{what!r} cannot be planned; image, train and finetune can")
    machine = find_machine(gpu, vram, ram)
    if what == "image":
        if recipe is not None:
            raise ValueError(f"recipe {recipe} is for train and finetune; an image is planned without one")
        pins = [_pin(value) for value in (dtype, quant, offload, device, encoder_on)]
        answer = plan_image(machine, model, size, steps, cfg, batch, pins)
    else:
        answer = plan_run(what, recipe, changes or [], machine.device, count, price_per_hour)
    print(json.dumps(answer, indent=2) if as_json else "\n".join(_lines(answer)))


def plan_image(
    machine: Any,
    name: str,
    size: str | None,
    steps: int | None,
    cfg: float | None,
    batch: int,
    pins: list[Any],
    parts: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The plan of `batch` pictures as plain JSON values.

    Args:
        pins: dtype, quant, offload, device, encoder_on, tile_vae, compile; None or left out where free.
        parts: paths of single components, for a model that does not bring them.

    Raises:
        ValueError: a model that is not here, or a size, number or pin that is not accepted.
    """
    from leanlens.cli.generate import _size
    from leanlens.pipeline.request import check_guidance, check_steps
    from leanlens.plan.choose import Drawing, Pins, choose
    from leanlens.presets import preset_for

    preset = preset_for(name)
    sizes, packed = model_sizes(name, parts)
    steps, cfg = steps or preset.num_inference_steps, preset.guidance_scale if cfg is None else cfg
    check_steps(steps)
    check_guidance(cfg)
    pixels = _size(size, None, None, preset.base_resolution, None)
    drawing = Drawing(pixels["height"], pixels["width"], steps, cfg, batch)
    choice = choose(machine, sizes, packed, drawing, Pins(*pins))
    settings, each = choice.settings, choice.seconds_per_picture(batch)
    return {
        "machine": machine.device.name,
        "fits": choice.fits,
        "too_large": list(choice.tight),
        "peak_vram_gb": _gb(max(choice.vram.values())),
        "peak_ram_gb": _gb(max(choice.ram.values())),
        "vram_limit_gb": None if choice.vram_limit is None else _gb(choice.vram_limit),
        "ram_limit_gb": None if choice.ram_limit is None else _gb(choice.ram_limit),
        "stages": {
            stage: {"vram_gb": _gb(choice.vram[stage]), "ram_gb": _gb(choice.ram[stage])} for stage in choice.vram
        },
        **_storage(name, parts),
        "seconds_per_image": None if each is None else float(f"{each:.3g}"),
        "seconds_first_image": None if each is None else float(f"{each + _opening_seconds(sizes, choice):.3g}"),
        "seconds": {stage: float(f"{value:.3g}") for stage, value in choice.seconds.items()},
        "settings": dict(vars(settings)),
        "lost": choice.loss,
        "needs": _needs(settings),
        "command": shlex.join(command_words(name, drawing, settings)) if choice.fits else None,
    }


def command_words(name: str, drawing: Any, settings: Any) -> list[str]:
    """The command that draws so; every setting is said, so that it does the same wherever it runs."""
    words = ["leanlens", "generate", "PROMPT", "--model", name, "--size", f"{drawing.width}x{drawing.height}"]
    words += ["--steps", str(drawing.steps), "--cfg", f"{drawing.guidance:g}", "--dtype", settings.dtype]
    words += ["--device", settings.device, "--quant", settings.quant, "--offload", settings.offload]
    words += ["--encoder-on", settings.encoder_on]
    words += ["--number", str(drawing.pictures)] if drawing.pictures > 1 else []
    words += ["--tile-vae"] if settings.tile_vae else []
    return words + (["--compile"] if settings.compile else [])


def _needs(settings: Any) -> list[str]:
    """What to do before the command, for the settings to be what they say."""
    if settings.encoder != "mxfp4":
        return []
    return [
        f"{KERNELS} (without them the text encoder is decoded to 40.7 GB, unless it is read layer by layer: "
        "--encoder-on disk)"
    ]


def _pin(value: str) -> str | None:
    return None if value == "auto" else _SHORT.get(value, value)


def model_sizes(name: str, given: dict[str, str] | None = None) -> tuple[Any, bool]:
    """Sizes of a model, and whether its text encoder stays in MXFP4: the released ones, or those of files here.

    Args:
        given: paths of single components, for a model that does not bring them.

    Raises:
        ValueError: neither, or a model that is not whole.
    """
    from leanlens.plan.memory import ModelSizes
    from leanlens.presets import PRESETS

    if name in PRESETS and name != "nano" and not given:
        return ModelSizes(), True
    from leanlens.weights.layouts import identify

    if name in PRESETS:
        from leanlens.hub import locate

        path = locate(name)
    else:
        path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(f"model {name!r} is not here; give turbo, rl, base or a model folder of this machine")
    layout = identify(path)
    if layout.component != "pipeline" or given:
        from leanlens.weights.assemble import component_paths

        paths = component_paths(path, **(given or {}))
        parts = {part: identify(paths[part]) for part in ("transformer", "text_encoder", "vae")}
    else:
        parts = dict(layout.parts)
        if missing := {"transformer", "text_encoder", "vae"} - set(parts):
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; a whole model can be planned")
    encoder = parts["text_encoder"]
    return _sizes_of(parts), encoder.quantisation == "mxfp4" and encoder.path.is_dir()


def _sizes_of(parts: Any) -> Any:
    """Plain numbers of the parts, from configs and the headers of weight files."""
    from leanlens.plan.compute import DenoiserSizes
    from leanlens.plan.memory import AutoencoderSizes, EncoderSizes, ModelSizes
    from leanlens.weights.load import model_config, stored_tensors

    part, text, vae = (model_config(parts[key]) for key in ("transformer", "text_encoder", "vae"))
    width = part["num_attention_heads"] * part["attention_head_dim"]
    layers = part.get("selected_layer_index", (5, 11, 17, 23))
    stored = {key: stored_tensors(parts[key]).values() for key in ("transformer", "vae")}
    counts = {key: sum(_elements(tensor.shape) for tensor in tensors) for key, tensors in stored.items()}
    encoder = stored_tensors(parts["text_encoder"])
    weights = {key: _elements(value.shape) for key, value in encoder.items() if not key.startswith("lm_head")}
    share = text.get("num_experts_per_tok", 1) / text.get("num_local_experts", 1)
    met = sum(n * (share if ".experts." in key else 1) for key, n in weights.items() if "embed_tokens" not in key)
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return ModelSizes(
        DenoiserSizes(part["num_layers"], width, part["in_channels"], part["enc_hidden_dim"] * len(layers)),
        counts["transformer"],
        part["num_attention_heads"],
        EncoderSizes(
            parameters=sum(weights.values()),
            packed=sum(weights[key] for key in weights if encoder[key].quantisation == "mxfp4"),
            active=int(met),
            largest=max(weights.values()),
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            attention_width=text["num_attention_heads"] * head_dim,
            selected=len(layers),
            experts=text.get("num_local_experts", 1),
        ),
        AutoencoderSizes(
            counts["vae"],
            tuple(vae["block_out_channels"]),
            vae["layers_per_block"],
            vae["latent_channels"],
            vae.get("sample_size", 1024),
        ),
        denoiser_file=_read_of(parts["transformer"]),
        encoder_file=_read_of(parts["text_encoder"]),
    )


def _read_of(layout: Any) -> float:
    """Bytes of a part's tensors in its files, the head of a language model left out."""
    return float(sum(entry.stop - entry.start for name, entry in layout.entries.items() if "lm_head" not in name))


def _elements(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)


def plan_run(
    what: str, recipe: Path | None, changes: list[str], device: Any, count: int, price: float | None
) -> dict[str, Any]:
    """The plan of a training run as plain JSON values.

    Raises:
        ValueError: a recipe that cannot be read, is of another kind, or does not go with the number of devices.
    """
    from leanlens.config import find_recipe
    from leanlens.plan.training import plan_training

    if recipe is None:
        raise ValueError(
            f"plan {what} needs a recipe; give the path of a TOML file, or a name: leanlens train lists them"
        )
    named, recipe = recipe, find_recipe(recipe)
    wanted, run = read_run(what, recipe, changes, device, count)
    made = plan_training(run, device, count, price)
    start = f"torchrun --nproc-per-node {count} -m leanlens" if count > 1 else "leanlens"
    words = shlex.join(["train", str(named), *(word for change in changes for word in ("--set", change))])
    return {
        "machine": f"{count} x {device.name}",
        "fits": made.fits,
        "peak_vram_gb": _gb(made.peak),
        "vram_limit_gb": _gb(made.limit),
        "stages": {
            "state_gb": _gb(made.state),
            "text encoder and autoencoder_gb": _gb(made.frozen),
            "activations_gb": _gb(made.activations),
        },
        "largest_batch": {str(base): pictures for base, pictures in made.largest.items()},
        "seconds_per_step": made.step_seconds and float(f"{made.step_seconds:.3g}"),
        "hours": made.hours and float(f"{made.hours:.3g}"),
        "utilisation": made.utilisation and float(f"{made.utilisation:.2g}"),
        "images": made.images,
        "flops": made.flops,
        "kilowatt_hours": made.kilowatt_hours and float(f"{made.kilowatt_hours:.3g}"),
        "money": made.money and float(f"{made.money:.3g}"),
        "settings": {"precision": wanted.train.precision, "checkpointing": wanted.train.checkpointing},
        "command": f"{start} {words}" if made.fits else None,
    }


def read_run(what: str, path: Path, changes: list[str], device: Any, count: int) -> tuple[Any, Any]:
    """A recipe, and the same as plain numbers for `count` of `device`."""
    from dataclasses import replace

    from leanlens.config import read_recipe
    from leanlens.plan.memory import AutoencoderSizes, EncoderSizes, ModelSizes, part_bytes
    from leanlens.plan.training import TrainingRun
    from leanlens.train.config import TrainRecipe, kind_of_recipe
    from leanlens.train.memory_check import recipe_micro_batches, recipe_parameters, recipe_state_bytes

    if kind_of_recipe(path) != "denoiser":
        raise ValueError(f"recipe {path} trains an autoencoder; a denoiser's recipe can be planned")
    recipe = read_recipe(TrainRecipe, path, changes)
    if what == "finetune" and recipe.init.start is None:
        raise ValueError(
            f"recipe {path} starts from random weights; plan train, or set init.from to what is fine-tuned"
        )
    part = recipe.model
    released = ModelSizes(part.sizes, recipe_parameters(recipe), part.num_attention_heads)
    if part.parts == "toy":
        tiny = EncoderSizes(150_000, 0, 60_000, 20_000, 4, 48, 4, 64, 4)
        model, packed = (
            replace(released, encoder=tiny, autoencoder=AutoencoderSizes(300_000, (16, 16, 32, 32), 1)),
            False,
        )
    elif Path(part.parts).is_dir():
        found, packed = model_sizes(part.parts)
        model = replace(released, encoder=found.encoder, autoencoder=found.autoencoder)
    else:
        model, packed = released, True
    # The loop opens the frozen parts in float32; experts stay packed where there are kernels for them.
    kernels = device.kind == "nvidia" and device.capability >= 7.5
    weights = part_bytes(model, "float32", packed and kernels)
    return recipe, TrainingRun(
        model,
        recipe_micro_batches(recipe, count),
        recipe.train.steps,
        recipe.train.micro_batches,
        recipe.train.precision,
        recipe_state_bytes(recipe, count),
        weights["text_encoder"] + weights["vae"],
        max(1, recipe.train.micro_batches // count) if recipe.train.pack else 1,
        recipe.data.cache is not None,
        recipe.train.checkpointing,
        recipe.train.compile,
    )


def find_machine(gpu: str | None, vram: float | None, ram: float | None) -> Any:
    """The machine that the options describe; without them, this one.

    Raises:
        ValueError: an unknown card, or a memory that is not above 0.
    """
    from leanlens.plan.choose import Machine
    from leanlens.plan.devices import card_of, find_device, with_memory

    if ram is not None and ram <= 0:
        raise ValueError(f"--ram {ram:g} is not accepted; give main memory in GB, above 0")
    if gpu is None and vram is None:
        return _this_machine(ram)
    device = card_of(vram or 0) if gpu is None else find_device(gpu)
    if vram is not None:
        device = with_memory(device, card_of(vram).memory)
    if device.unified and ram is not None:
        device = with_memory(device, ram)
    return Machine(device, device.memory if device.unified else ram)


def _this_machine(ram: float | None) -> Any:
    import psutil
    import torch

    from leanlens.plan.choose import Machine
    from leanlens.plan.devices import GIB, card_of, cpu, device_of_driver

    memory = ram or psutil.virtual_memory().total / GIB
    flags = torch.backends.cpu.get_cpu_capability()
    half = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    kind = "AVX-512 bfloat16" if half else "AVX-512" if "512" in flags else "AVX2"
    processor = cpu(torch.get_num_threads(), kind, memory)
    if not torch.cuda.is_available():
        return Machine(processor, memory)
    found = torch.cuda.get_device_properties(0)
    device = device_of_driver(found.name, found.total_memory) or card_of(found.total_memory / GIB / 0.983)
    return Machine(device, memory, processor, not kernels_missing())


def _gb(size: float) -> float:
    """Bytes -> 10^9 bytes, rounded up at the second decimal."""
    return -(-size // 1e7) / 100


def _opening_seconds(sizes: Any, choice: Any) -> float:
    """Until an image can be begun, where nothing is open yet: Python, its libraries, reading the files, compiling."""
    from leanlens.plan.rates import assumed

    read = sizes.denoiser_file + sizes.encoder_file
    return assumed("start") + read / assumed("disk") + choice.seconds.get("compiling", 0.0)


def _storage(name: str, parts: dict[str, str] | None) -> dict[str, float | None]:
    """What is still to be downloaded of a model, and what it takes on disk, in GB; None where that is not known."""
    from leanlens.hub import locate, models_folder
    from leanlens.presets import PRESETS

    path = models_folder() / name if name in PRESETS and name != "nano" else Path(locate(name))
    if parts:
        return {"download_gb": None, "disk_gb": None}
    if name in PRESETS and name != "nano" and not (path / "model_index.json").is_file():
        size = PRESETS[name].sources[0].gigabytes
        return {"download_gb": size, "disk_gb": size}
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {"download_gb": 0.0, "disk_gb": _gb(sum(file.stat().st_size for file in files))}


def _lines(answer: dict[str, Any]) -> list[str]:
    """The answer to read: one fact on each line."""
    rows = {"machine": answer["machine"], "fits": "yes" if answer["fits"] else "no"}
    rows |= _storage_row(answer)
    rows["peak"] = _peak(answer)
    for stage, value in answer["stages"].items():
        rows[stage.removesuffix("_gb").replace("_", " ")] = (
            _memory(answer, value["vram_gb"], value["ram_gb"]) if isinstance(value, dict) else f"{value:g} GB"
        )
    if "lost" in answer:
        rows["quality lost"] = answer["lost"]
    if largest := answer.get("largest_batch"):
        rows["largest batch"] = ", ".join(f"{count} images at {base} pixels" for base, count in largest.items())
    rows |= _run_rows(answer)
    for key, label in _SECONDS.items():
        if key in answer:
            rows[label] = (
                "not known" if answer[key] is None else f"{_number(answer[key])} {_UNITS.get(key, 's')} (predicted)"
            )
    rows["settings"] = ", ".join(f"{key.replace('_', ' ')} {_word(value)}" for key, value in answer["settings"].items())
    rows |= {"first": "; ".join(answer["needs"])} if answer.get("needs") else {}
    rows["run"] = answer["command"] or "does not fit: take a smaller size, or a machine with more memory"
    return [f"{name:20} {value}" for name, value in rows.items()]


_SECONDS = {
    "seconds_per_image": "each image",
    "seconds_first_image": "first image",
    "seconds_per_step": "each step",
    "hours": "whole run",
    "kilowatt_hours": "energy",
    "money": "money",
}
_UNITS = {
    "seconds_per_image": "s with the model open", "seconds_first_image": "s with opening the model",
    "hours": "hours", "kilowatt_hours": "kWh", "money": "in the unit of --price-per-hour",
}  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _storage_row(answer: dict[str, Any]) -> dict[str, str]:
    if answer.get("disk_gb") is None:
        return {}
    fetched = answer["download_gb"]
    return {"download": f"{f'{fetched:g} GB' if fetched else 'none'}; {answer['disk_gb']:g} GB on disk"}


def _run_rows(answer: dict[str, Any]) -> dict[str, str]:
    """Numbers of a training run, as people write them."""
    rows = {}
    if answer.get("utilisation") is not None:
        rows["utilisation"] = f"{answer['utilisation']:.0%} of the device's peak"
    if answer.get("images") is not None:
        rows["images"] = f"{answer['images']:,.0f}"
    if answer.get("flops") is not None:
        rows["arithmetic"] = f"{answer['flops']:.3g} FLOP"
    return rows


def _memory(answer: dict[str, Any], device: float, main: float) -> str:
    """Both memories, or the one where a processor computes in its own."""
    if answer.get("settings", {}).get("device") == "cpu":
        return f"{main:g} GB of main memory"
    return f"{device:g} GB of the device, {main:g} GB of main memory"


def _peak(answer: dict[str, Any]) -> str:
    """The most that is needed of each memory, beside what there is."""
    parts = []
    if answer.get("settings", {}).get("device") != "cpu":
        there = answer["vram_limit_gb"]
        parts.append(f"{answer['peak_vram_gb']:g} GB{'' if there is None else f' of {there:g} GB'} of the device")
    if "peak_ram_gb" in answer:
        there = answer["ram_limit_gb"]
        limit = " (not checked; give --ram)" if there is None else f" of {there:g} GB"
        parts.append(f"{answer['peak_ram_gb']:g} GB{limit} of main memory")
    return ", ".join(parts)
