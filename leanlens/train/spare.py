"""Files that a run can do without: snapshots, sample grids, metrics.

Comes in: a piece of writing. Goes out: the same file, or a warning and a run that goes on. Checkpoints are another
matter, see `checkpoint`. Knows nothing of what is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from leanlens.log import logger


@contextmanager
def spare_file(path: Path) -> Iterator[None]:
    """Within: the writing of `path`. Where the disk does not take it a warning says so, and the run goes on."""
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        # `whole_file` answers a disk that refuses with a ValueError; any other ValueError is not about writing.
        if isinstance(error, ValueError) and not isinstance(error.__cause__, OSError):
            raise
        logger.warning("%s could not be written: %s; training goes on", path, error)
