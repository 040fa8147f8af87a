"""One OpenMP thread, as `make test` has it, unless a user says otherwise: records name their threads, and two processes
on two cores are slow with more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
