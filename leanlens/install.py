"""Gives the `pip install` command for an extra, matching how this copy of leanlens was installed.

leanlens is installed from source, from a clone or from the address of the repository, and not from a package index.
"""

import json
from pathlib import Path
from typing import Any

REPOSITORY = "<address of the repository>"  # replaced by the publisher of a copy
FROM_GIT = 'pip install "leanlens[{extra}] @ git+' + REPOSITORY + '"'
# GPU kernels that compute with packed MXFP4 weights. Double quotes, because cmd.exe does not know single quotes.
KERNELS = 'pip install "kernels>=0.18.2,<0.19" triton'


def install_extra(extra: str) -> str:
    """The command that adds `extra`, a name in pyproject.toml's optional-dependencies, to this installation.

    The source comes from `direct_url.json`, which pip and uv write for an installed package (PEP 610).
    """
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    origin = _origin()
    url = origin.get("url", "")
    if "vcs_info" in origin:
        revision = origin["vcs_info"].get("requested_revision")
        return f'pip install "leanlens[{extra}] @ git+{url}{f"@{revision}" if revision else ""}"'
    if "archive_info" in origin:
        return f'pip install "leanlens[{extra}] @ {url}"'
    folder = Path(url2pathname(urlsplit(url).path)) if url else Path(__file__).parents[1]
    if not (folder / "pyproject.toml").is_file():
        return FROM_GIT.format(extra=extra)
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f'pip install {editable}"{folder}[{extra}]"'


def _origin() -> dict[str, Any]:
    """The content of `direct_url.json`; empty if leanlens runs from its source without being installed."""
    from importlib import metadata

    try:
        return json.loads(metadata.distribution("leanlens").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
