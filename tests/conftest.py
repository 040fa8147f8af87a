"""One OpenMP thread, as `make test` has it, unless a user says otherwise: records name their threads, and two processes
on two cores are slow with more. Tokenizers, which servers of toy models train, get no threads of their own either."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later `gc.collect`, of which each model that is unloaded does one."""
    gc.collect()
    gc.freeze()
