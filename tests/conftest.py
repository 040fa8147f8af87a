"""One OpenMP thread, as `make test` has it, unless a user says otherwise: records name their threads, and two processes
on two cores are slow with more."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later `gc.collect`, of which each model that is unloaded does one."""
    gc.collect()
    gc.freeze()
