"""Defines the library's logger, and functions that log a message once per process."""

import logging
from functools import cache

logger = logging.getLogger("leanlens")


@cache
def warn_once(message: str) -> None:
    """Log `message` as a warning, once per process."""
    logger.warning(message)


@cache
def info_once(message: str) -> None:
    """Log `message` at level INFO, once per process."""
    logger.info(message)
