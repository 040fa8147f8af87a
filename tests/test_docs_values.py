"""Numbers that pages and messages repeat are those of the code: defaults, sizes, downloads, what a library holds."""

import ast
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

from leanlens.presets import PRESETS
from leanlens.resolution import sizes_at

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "integrations").glob("*/README.md")),
    ROOT / "leanlens" / "nano" / "README.md",
]
PYTHON = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
TITLES = {"turbo": "turbo", "lens-turbo": "turbo", "rl": "rl", "lens": "rl", "base": "base", "lens-base": "base"}


def pages_with(pattern: str) -> list:
    found = [(page, page.read_text(encoding="utf-8")) for page in PAGES]
    return [pytest.param(text, id=str(page.relative_to(ROOT))) for page, text in found if re.search(pattern, text)]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page as rows of cells."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in each.splitlines()] for each in found]


def test_tables_of_steps_and_guidance_are_the_presets():
    seen = set()
    for page in PAGES:
        for head, _, *rows in tables(page.read_text(encoding="utf-8")):
            if not {"model", "steps", "guidance"} <= set(head):
                continue
            for row in rows:
                name = row[head.index("model")].strip("`")
                if name in PRESETS:
                    told = (int(row[head.index("steps")]), float(row[head.index("guidance")].split()[0]))
                    assert told == (PRESETS[name].num_inference_steps, PRESETS[name].guidance_scale), (page.name, name)
                    seen.add(name)
    assert seen == set(PRESETS)


@pytest.mark.parametrize("text", pages_with(r"num_inference_steps=\d"))
def test_code_that_opens_a_preset_draws_with_its_steps_and_guidance(text):
    for block in PYTHON.findall(text):
        names = [name for name in PRESETS if re.search(rf"(?:from_pretrained|open_model)\(\"{name}\"", block)]
        if len(names) != 1:
            continue
        preset = PRESETS[names[0]]
        assert {int(value) for value in re.findall(r"num_inference_steps=(\d+)", block)} <= {preset.num_inference_steps}
        assert {float(value) for value in re.findall(r"guidance_scale=([\d.]+)", block)} <= {preset.guidance_scale}


def test_prose_about_guidance_is_the_presets():
    text = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
    said = re.search(r"guidance scale: (\d+) for `rl` and `base`, (\d+) for `nano`, (\d+) for `turbo`", text)
    assert said
    rl, nano, turbo = (float(value) for value in said.groups())
    assert (rl, rl, nano, turbo) == tuple(PRESETS[name].guidance_scale for name in ("rl", "base", "nano", "turbo"))
    text = (ROOT / "docs" / "a1111.md").read_text(encoding="utf-8")
    said = re.search(r"\((\d+) and (\d+) for Turbo, (\d+) and (\d+) for Lens\)", text)
    assert said
    expected = [(PRESETS[name].num_inference_steps, PRESETS[name].guidance_scale) for name in ("turbo", "rl")]
    assert [float(value) for value in said.groups()] == [value for pair in expected for value in pair]


def test_the_table_of_sizes_is_that_of_the_code():
    text = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
    table = next(each for each in tables(text) if each[0][0] == "aspect")
    bases = [int(cell.split()[-1]) for cell in table[0][1:]]
    for aspect, *cells in table[2:]:
        for base, cell in zip(bases, cells, strict=True):
            height, width = sizes_at(base)[aspect]
            assert cell == f"{width} x {height}"


def test_downloads_are_as_large_as_it_is_said():
    gigabytes = f"{PRESETS['turbo'].sources[0].gigabytes:.0f} GB"
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if re.search(r"weights fetch (turbo|rl|base)\b.*# \d", line):
                assert f"# {gigabytes}" in line, (page.name, line)
    mirrors = (ROOT / "docs" / "mirrors.md").read_text(encoding="utf-8")
    assert f"about {gigabytes} each" in mirrors
    for name in ("turbo", "rl", "base"):
        folders = [source.address for source in PRESETS[name].sources if source.layout == "folder"]
        assert f"| {name} | {', '.join(f'`{address}`' for address in folders)} |" in mirrors


def test_the_libraries_hold_as_many_things_as_it_is_said():
    counts = {}
    for name in ("common", "everyday"):
        text = (ROOT / "leanlens" / "scenes" / f"{name}.toml").read_text(encoding="utf-8")
        counts[name] = len(tomllib.loads(text)["concepts"])
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number in re.findall(r"[Kk]nows\]?(?:\([\w.]+\))? (?:is )?(\d+)\s+things", text):
            assert int(number) == counts["common"], page.name
    scenes = (ROOT / "docs" / "scenes.md").read_text(encoding="utf-8")
    assert f"{counts['common']} common things" in scenes
    assert f"`--sources everyday` selects {counts['everyday']} of them" in scenes


def test_the_version_is_the_same_everywhere():
    import leanlens

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {leanlens.__version__}\n" in citation


def test_every_extra_is_explained():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    table = next(each for each in tables(text) if each[0][0] == "extra")
    assert {row[0].strip("`") for row in table[2:]} == set(extras)


def test_files_that_pages_name_are_there():
    folders, suffixes = "recipes|runs|benchmarks|leanlens|docs|tests|integrations|examples", "toml|py|sh|json|jsonl|md"
    kept = rf"(?:{folders})/[\w./-]*\w\.(?:{suffixes}|safetensors)\b"
    now = [page for page in PAGES if page.name != "log.md"]  # whose entries name what was there at their commits
    for page in [*now, ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", ROOT / "benchmarks" / "README.md"]:
        for name in re.findall(rf"(?<![\w./~-])({kept})", page.read_text(encoding="utf-8")):
            made = page.parent / name if (page.parent / name).exists() else ROOT / name
            assert made.exists(), f"{page.name}: {name}"


def test_the_bounds_of_the_server_are_those_of_its_settings():
    from leanlens.serve.queue import GRACE
    from leanlens.serve.settings import ServerSettings

    text = " ".join((ROOT / "docs" / "serve.md").read_text(encoding="utf-8").split())
    own = {name: field.default for name, field in ServerSettings.model_fields.items()}
    for said in (
        f"{own['max_prompt']:,} characters of prompt",
        f"{own['max_steps']} steps, {own['max_count']} images per request, {own['max_body'] >> 20} MiB per request",
        f"{own['max_upload'] >> 20} MiB and {own['max_upload_pixels'] // 1_000_000} million pixels per upload",
        f"waits up to {own['switch_patience']:.0f} seconds",
        f"until {GRACE:.0f} seconds after that",
        f"`--keep-days {own['keep_days']:.0f}` and `--keep-pictures {own['keep_pictures']}`",
        f"than `--safety-threshold` ({own['safety_threshold']})",
    ):
        assert said in text, said


def test_the_rooms_that_contributors_read_of_are_the_rooms():
    from tests.test_architecture import LEVELS, PACKAGE

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = next(each for each in tables(text) if each[0][0] == "level")
    told = {room: int(row[0]) for row in table[2:] for room in re.findall(r"`(\w+)/`", row[1])}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.iterdir())} - {"__pycache__"}
    assert told == {room: LEVELS[room] for room in rooms if room in LEVELS}


def test_the_small_model_is_as_large_as_its_page_says():
    text = (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")
    transformer, vae = (
        json.loads((ROOT / "leanlens" / "nano" / part / "config.json").read_text(encoding="utf-8"))
        for part in ("transformer", "vae")
    )
    heads, width = transformer["num_attention_heads"], transformer["attention_head_dim"]
    assert f"{transformer['num_layers']} blocks, {heads} heads of {width}" in text
    assert f"{vae['latent_channels']} channels, downsampling by 8, {4 * vae['latent_channels']} numbers" in text


def result(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("page", "name"), [("nano", "quality_nano"), ("scorer", "scorer")])
def test_tables_of_rates_are_the_kept_results(page, name):
    rates = list(result(name)["rates"].values())
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    table = next(each for each in tables(text) if each[0][0] == "criterion" and len(each[0]) == 1 + len(rates))
    told = 0
    for criterion, *cells in table[2:]:
        for rate, cell in zip(rates, cells, strict=True):
            one = rate.get(criterion.replace(" ", "_"))
            if one is not None:
                assert cell == f"{one['rate']:.2f} ({one['low']:.2f} to {one['high']:.2f}) of {one['num']}", criterion
                told += 1
    assert told >= 9 * len(rates)


def test_the_tables_of_the_two_checkers_are_the_kept_result():
    kept = result("checkers")
    found = tables((ROOT / "docs" / "scorer.md").read_text(encoding="utf-8"))
    agreement = next(each for each in found if "kappa" in each[0])
    told = {row[0].replace(" ", "_"): row[1:] for row in agreement[2:]}
    counted = {name: one for name, one in kept["agreement"].items() if one}
    assert list(told) == list(counted)
    for name, one in counted.items():
        numbers = [str(one[key]) for key in ("num", "both_yes", "both_no", "only_first", "only_second")]
        assert told[name] == [*numbers, f"{one['agreement']:.2f}", f"{one['kappa']:.2f}"], name
    rates = next(each for each in found if each[0][:2] == ["criterion", "checker"])
    truths = [kept["rates"][name] for name in ("own truth", "another's", "kin's")]
    assert len(rates[2:]) == 2 * (len(counted) - 1)
    for criterion, checker, *cells in rates[2:]:
        expected = [truth[checker.strip("`")][criterion.replace(" ", "_")] for truth in truths]
        for one, cell in zip(expected, cells, strict=True):
            assert cell == f"{one['rate']:.2f} ({one['low']:.2f} to {one['high']:.2f}) of {one['num']}", criterion


def test_what_ships_judges_as_often_alike_as_it_is_said():
    text = " ".join((ROOT / "docs" / "scorer.md").read_text(encoding="utf-8").split())
    said = re.search(r"judges (\d+) of 300 true images alike and (\d+) of 300 of .*?; `crosscheck` (\d+) of 300", text)
    assert said
    kept = [result(name)["equal_scores_fitted"] for name in ("scoring", "scoring_shipped", "scoring_crosscheck")]
    assert [int(number) for number in said.groups()] == kept
    megabytes = sum(path.stat().st_size for path in (ROOT / "leanlens" / "score" / "fits").iterdir()) / 1e6
    assert f"({megabytes:.1f} MB in all" in text


@pytest.mark.skipif(not (ROOT / "benchmarks/results/reason_people.json").is_file(), reason="it was not measured yet")
def test_the_table_of_rewritten_prompts_is_the_kept_result():
    rates = pytest.importorskip("leanlens.evaluate.rates")
    from leanlens.evaluate.table import render_table

    kept = result("reason_people")
    rows = {name: rates.rates_from_json(row) for name, row in kept["rates"].items()}
    table = render_table(rows, None, rates.differences_from_json(kept["differences"]))
    assert table in (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["quality_nano_brief", "quality_nano_human"])
def test_rates_in_prose_are_the_kept_results(name):
    text = " ".join((ROOT / "docs" / "nano.md").read_text(encoding="utf-8").split())
    said = re.search(rf"background [^.:]*\(`{name}\.json`\)", text)
    assert said
    rates = result(name)["rates"]["nano"]
    for criterion, yes, num in re.findall(r"([a-z ]+?) (\d+) of (\d+)", said[0]):
        one = rates[criterion.strip().replace("colour", "color").replace(" ", "_")]
        assert (int(yes), int(num)) == (one["yes"], one["num"]), criterion


@pytest.mark.parametrize("name", ["nano_scenes", "nano_people"])
def test_tables_of_two_scorers_are_the_kept_results(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    evaluated = importlib.import_module("evaluated")
    assert evaluated.table_of(result(name)) in (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")


def test_what_the_front_page_says_of_the_small_model_was_measured():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    rates = result("nano_scenes")["rates"]["scene"]["nano"]
    one, two = rates["object"], rates["two_objects"]
    assert f"{one['yes']} of {one['num']} single things and {two['yes']} of {two['num']} pairs" in text
    autoencoder = result("autoencoder_nano")
    page = " ".join((ROOT / "docs" / "nano.md").read_text(encoding="utf-8").split())
    assert f"{autoencoder['psnr_mean']:.1f} dB on {autoencoder['pictures']} held-out scenes" in page
    for level, decibels in result("levels_nano")["dB"].items():
        assert re.search(rf"{decibels:.1f}\d? (?:dB .*?)?at {float(level):.0%}", page), level


@pytest.mark.parametrize("text", pages_with(r"(?m)^```py"))
def test_code_parses_and_what_it_imports_is_there(text):
    for block in re.findall(r"^```py[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "leanlens":
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    whole = f"{node.module}.{name.name}"
                    assert hasattr(module, name.name) or importlib.util.find_spec(whole), whole
