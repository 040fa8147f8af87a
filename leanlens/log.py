"""One logger for the library, and messages that are said once per process.

Comes in: messages. Goes out: records of the standard `logging` logger "leanlens". Knows nothing of any other room.
"""

import logging
from functools import cache

logger = logging.getLogger("leanlens")


@cache
def warn_once(message: str) -> None:
    """Log `message` as a warning the first time this process meets it."""
    logger.warning(message)


@cache
def say_once(message: str) -> None:
    """Log `message` as information the first time this process meets it."""
    logger.info(message)
