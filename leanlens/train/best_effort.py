"""Writing of files that a run can do without: snapshots, sample grids, metrics. Checkpoints are not among them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from leanlens.log import logger


@contextmanager
def best_effort(path: Path) -> Iterator[None]:
    """Context for writing `path`: a failed write is a warning, and the run continues."""
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        # `whole_file` turns an OSError into a ValueError; any other ValueError is not about writing.
        if isinstance(error, ValueError) and not isinstance(error.__cause__, OSError):
            raise
        logger.warning("%s could not be written: %s; training continues", path, error)
