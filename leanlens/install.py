"""The lines that install leanlens or one of its extras, written once for every message and every page.

leanlens is installed from its source, not from a package index: from a clone, or from the address of the repository. A
message names the source that this installation came from, so that its line can be pasted as it is.
"""

import json
from pathlib import Path
from typing import Any

REPOSITORY = "<address of the repository>"  # whoever publishes a copy puts its address here
FROM_CLONE = 'pip install ".[{extra}]"'
FROM_GIT = 'pip install "leanlens[{extra}] @ git+' + REPOSITORY + '"'
# What computes MXFP4 weights as they are, on a GPU. Double quotes: single ones are none to cmd.exe.
KERNELS = 'pip install "kernels>=0.18.2,<0.19" triton'


def install_extra(extra: str) -> str:
    """The line that adds `extra`, a name in pyproject.toml's optional-dependencies, to this installation.

    The source is read from `direct_url.json`, which pip and uv write beside an installed package (PEP 610).
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
    """What `direct_url.json` says; nothing where leanlens is run from its source without being installed."""
    from importlib import metadata

    try:
        return json.loads(metadata.distribution("leanlens").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
