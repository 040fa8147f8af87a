"""Fetches the files of benchmarks by pinned commit and checksum, and chooses prompts evenly over categories.

The library carries none of these files. Each keeps its own licence, which is named before it is downloaded.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leanlens.evaluate.suite import Item
from leanlens.files import digest_like, has_digest, parse_json, read_text
from leanlens.hub import DownloadError, fetch_file
from leanlens.log import logger

RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Source:
    """Where the files of a suite are published.

    Attributes:
        repository: `owner/name` of a public repository.
        commit: 40 hexadecimal digits.
        licence: SPDX identifier of the files, with a remark where they may not be used for every purpose.
        files: name -> (path in the repository, checksum). A checksum is a SHA-256 (64 digits), or the id that git
            gives the content (40 digits).
    """

    repository: str
    commit: str
    licence: str
    files: dict[str, tuple[str, str]]

    def address(self, name: str) -> str:
        """Where a file is downloaded from."""
        return f"{RAW}/{self.repository}/{self.commit}/{self.files[name][0]}"


SOURCES = {
    "geneval": Source(
        "djghosh13/geneval",
        "af4902f24d3ca90ebbb446dd9891a59e0f82725f",
        "MIT",
        {
            "evaluation_metadata.jsonl": (
                "prompts/evaluation_metadata.jsonl",
                "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
            ),
        },
    ),
    "geneval2": Source(
        "facebookresearch/GenEval2",
        "a6e82d2289e8d418f27f0adee77908b07060eea3",
        "CC-BY-NC-4.0 (not for commercial use)",
        {
            "geneval2_data.jsonl": (
                "geneval2_data.jsonl",
                "09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43",
            ),
        },
    ),
    "dpg": Source(
        "TencentQQGYLab/ELLA",
        "3c228f1dc6c4d3cad0a47493816151a419f14db3",
        "Apache-2.0",
        {"dpg_bench.csv": ("dpg_bench/dpg_bench.csv", "98457fc9901943f51ff9a30367250fc292533bed")},
    ),
    "compbench": Source(
        "Karine-Huang/T2I-CompBench",
        "1b7094991a57f3c22abdd4f6e8ba6c1a15517073",
        "MIT",
        {
            f"{category}_val.txt": (f"examples/dataset/{category}_val.txt", digest)
            for category, digest in (
                ("color", "1634259756dbc77d13093d907d414480080ec9790a8c97ad09efaea7b2534f2d"),
                ("shape", "37e1a276906c7ea9516cbd7ac8501be896006c0c17ca7344f260562834455bae"),
                ("texture", "fbb5363515b4a28009e360afaaaf389d2dd2289e50dbb0c6ef4ea0c7fe4f3d4f"),
                ("spatial", "8707a1d7e42ce3002d95363cf55f74bd043c843ae27108f5125aaaa7840ca988"),
                ("3d_spatial", "c9953597315f36a5fcb41291bb19bdc6ab5f64a0fa760d691b4854a73f5d1fe9"),
                ("numeracy", "dad8df141604b70ba7554bec724e3db0a80023680769b5c514854ea2d2527bbe"),
                ("non_spatial", "04c56cc9ac441dc9ea6c5157652058bd1635b5308526dd31bb29a1caab9a758d"),
                ("complex", "1b808018b8d9916db3d47d5aa2ef18377a3549a56901a474156f799824cdf3b4"),
            )
        },
    ),
    "longtext": Source(
        "X-Omni-Team/X-Omni",
        "2b8237bb3789638c290eeda3e83ed81bd3652c3b",
        "Apache-2.0",
        {
            "text_prompts.jsonl": (
                "textbench/text_prompts.jsonl",
                "a2130769e72bd8560470a066114cdac87f80f1eb071ba6bc0f7033225a9be0d8",
            ),
            "text_prompts_zh.jsonl": (
                "textbench/text_prompts_zh.jsonl",
                "6512cd121ac093e8113e114d76eb2c0ce967c220b18e2049e1063554ce496758",
            ),
        },
    ),
    "parti": Source(
        "google-research/parti",
        "5a657978134374ce28973948331b319adef164bd",
        "Apache-2.0",
        {
            "PartiPrompts.tsv": (
                "PartiPrompts.tsv",
                "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
            ),
        },
    ),
    "oneig": Source(
        "OneIG-Bench/OneIG-Benchmark",
        "41b49831e79e6dde5323618c164da1c4cf0f699d",
        "none stated, so it is not downloaded",
        {
            "OneIG-Bench-ZH.csv": ("OneIG-Bench-ZH.csv", "67cc1dae4af3e903834c4b038987f78ba9243c82"),
            "OneIG-Bench.csv": ("OneIG-Bench.csv", "9a016ee9c5745d3bb3488450b4afe4b56245ffdc"),
            "scripts/alignment/Q_D/anime.json": (
                "scripts/alignment/Q_D/anime.json",
                "478ecfb52f1bbc8bb78c41f316469ed60cf788f7",
            ),
            "scripts/alignment/Q_D/anime_zh.json": (
                "scripts/alignment/Q_D/anime_zh.json",
                "5907f8288e89bf3849970b06129cb869c848b982",
            ),
            "scripts/alignment/Q_D/human.json": (
                "scripts/alignment/Q_D/human.json",
                "f89c0cd74bac7aaa31c60e81cff43eaff07a645d",
            ),
            "scripts/alignment/Q_D/human_zh.json": (
                "scripts/alignment/Q_D/human_zh.json",
                "6cee0e55c9fe284fac21094bf57408fb21b0cde2",
            ),
            "scripts/alignment/Q_D/multilingualism_zh.json": (
                "scripts/alignment/Q_D/multilingualism_zh.json",
                "d68cd99eadcf7f1a98021165a0972375398400b6",
            ),
            "scripts/alignment/Q_D/object.json": (
                "scripts/alignment/Q_D/object.json",
                "e0902c61815b92c79ce4b721e0363e6d08800ad5",
            ),
            "scripts/alignment/Q_D/object_zh.json": (
                "scripts/alignment/Q_D/object_zh.json",
                "af803afdd3b4bce82ce8b6446f16859e9d9607f6",
            ),
            "scripts/reasoning/gt_answer.json": (
                "scripts/reasoning/gt_answer.json",
                "e1932a11a42e8129b0d50033ce7bcce6803150fa",
            ),
            "scripts/reasoning/gt_answer_zh.json": (
                "scripts/reasoning/gt_answer_zh.json",
                "c2b236c6c868a30a533fbafdf443072f8f5ccd72",
            ),
            "scripts/style/style.csv": ("scripts/style/style.csv", "5df65c86086efa4124c8a24eefd782b26d9cc563"),
            "scripts/text/text_content.csv": (
                "scripts/text/text_content.csv",
                "56970a9cf906b87a0be91bc116e74d40f4a34914",
            ),
            "scripts/text/text_content_zh.csv": (
                "scripts/text/text_content_zh.csv",
                "778989eeb56357d7b90094518d9cf7fe78f79ecc",
            ),
        },
    ),
}


def fetch_data(suite: str, folder: Path | None = None) -> dict[str, Path]:
    """The verified files of a suite: name -> path.

    Args:
        suite: a key of SOURCES.
        folder: a folder that has them, in place of a download. Without it they are kept in `benchmarks_folder`.

    Raises:
        ValueError: an unknown suite, or a file of `folder` is missing or has another checksum.
        DownloadError: a file could not be downloaded, or has another checksum.
    """
    if suite not in SOURCES:
        raise ValueError(f"unknown suite {suite!r}: files are known for {', '.join(SOURCES)}")
    source = SOURCES[suite]
    if folder is not None:
        for name, (_, digest) in source.files.items():
            _verify(folder / name, digest, source.address(name))
        return {name: folder / name for name in source.files}
    there = {name: benchmarks_folder() / suite / name for name in source.files}
    missing = [name for name, path in there.items() if not has_digest(path, source.files[name][1])]
    if missing:
        logger.info("%s: from %s at %s, licence %s", suite, source.repository, source.commit[:7], source.licence)
    for name in missing:
        try:
            fetch_file(source.address(name), there[name], source.files[name][1])
        except DownloadError as error:
            raise DownloadError(f"{error}; without a network, give a folder that has {name} as data") from None
    return there


def describe_source(suite: str) -> dict[str, Any]:
    """Where the prompts of a suite come from, as JSON values: repository, commit, licence, and each file's checksum."""
    source = SOURCES[suite]
    return {
        "repository": source.repository,
        "commit": source.commit,
        "licence": source.licence,
        "files": {
            name: {"address": source.address(name), "sha256" if len(digest) == 64 else "git_blob": digest}
            for name, (_, digest) in source.files.items()
        },
    }


def benchmarks_folder() -> Path:
    """Where downloaded files of suites are kept: `~/.cache/leanlens/benchmarks`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanlens" / "benchmarks"


def choose(items: Sequence[Item], num: int | None) -> tuple[Item, ...]:
    """`num` items, evenly over the first of their categories and evenly spaced within each, in their order.

    Args:
        num: all without it.

    Raises:
        ValueError: more than there are.
    """
    if num is None:
        return tuple(items)
    if not 1 <= num <= len(items):
        raise ValueError(f"invalid num {num}: expected 1 to {len(items)}, the prompts of the suite")
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.categories[0] if item.categories else ""].append(index)
    shares = dict.fromkeys(groups, 0)
    for _ in range(num):  # one more for the group that has the fewest and still has some left
        name = min((name for name in groups if shares[name] < len(groups[name])), key=shares.__getitem__)
        shares[name] += 1
    chosen = {group[at * len(group) // shares[name]] for name, group in groups.items() for at in range(shares[name])}
    return tuple(items[index] for index in sorted(chosen))


def describe_choice(items: Sequence[Item], everything: Sequence[Item]) -> tuple[str, ...]:
    """A sentence on how many prompts are used; nothing if all are."""
    if len(items) == len(everything):
        return ()
    return (f"{len(items)} of the {len(everything)} prompts are used.",)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; blank lines are skipped.

    Raises:
        ValueError: it cannot be read, or a line is no object.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            rows.append(parse_json(line, f"{path} line {number}"))
            if not isinstance(rows[-1], dict):
                raise ValueError(f"{path} line {number} is a {type(rows[-1]).__name__}; expected an object")
    return rows


def with_size(items: Sequence[Item], size: int | None) -> tuple[Item, ...]:
    """The items with square images of a side of `size` pixels; unchanged without it."""
    return tuple(items) if size is None else tuple(replace(item, size=(size, size)) for item in items)


def _verify(path: Path, digest: str, address: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; it can be downloaded from {address}")
    found = digest_like(path, digest)
    if found != digest:
        raise ValueError(f"{path} has checksum {found}, expected {digest}; it can be downloaded from {address}")
