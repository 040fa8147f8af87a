"""A plan as lines to read, one fact on each."""

from typing import Any


def plan_lines(answer: dict[str, Any]) -> list[str]:
    """The answer to read: one fact on each line."""
    rows = _request_rows(answer)
    rows |= {"machine": answer["machine"], "fits": "yes" if answer["fits"] else "no"}
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


def _request_rows(answer: dict[str, Any]) -> dict[str, str]:
    """The model and the image that are planned; nothing for a training run, whose command names its recipe."""
    if (asked := answer.get("request")) is None:
        return {}
    image = f"{asked['width']}x{asked['height']}, {asked['num_inference_steps']} steps"
    image += f", guidance {asked['guidance_scale']:g}"
    image += f", {asked['num_images']} images" if asked["num_images"] > 1 else ""
    return {"model": answer["model"], "image": image}


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
