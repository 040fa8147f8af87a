"""The Ray cluster that replicas run on: the one that RAY_ADDRESS names, or one on this machine."""

import logging
import os
from typing import Any

from leanlens.install import install_extra
from leanlens.serve.engine import first_line
from leanlens.serve.settings import ServerSettings
from leanlens.serve.watchdog import Watchdog


class Cluster:
    """The cluster that RAY_ADDRESS names, which keeps running, or one on this machine, which ends with this process.

    Raises:
        ValueError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
            from ray import serve
        except ImportError as error:
            extra = install_extra("scale")
            raise ValueError(f"replicas need the package {error.name}; install it with: {extra}") from None
        self._watchdog: Watchdog | None = None
        self._names: set[str] = set()
        if not ray.is_initialized():
            try:
                self._connect()
            except ConnectionError as error:
                raise ValueError(f"the Ray cluster cannot be reached: {first_line(error)}") from None
        serve.start(proxy_location="Disabled")  # the APIs are in this process; nothing else listens
        logging.getLogger("ray.serve").setLevel(logging.WARNING)

    def _connect(self) -> None:
        import ray

        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        if os.environ.get("RAY_ADDRESS") not in (None, "", "local"):
            ray.init(**quiet)
            return
        self._watchdog = Watchdog()
        with self._watchdog.marked():
            ray.init("local", _temp_dir=self._watchdog.folder, **quiet)

    def add(self, name: str) -> None:
        """A replica has been started."""
        self._names.add(name)

    def remove(self, name: str) -> None:
        """Remove a replica. A cluster that this process started ends with its last replica."""
        self._names.discard(name)
        if self._watchdog is None:
            from ray import serve

            serve.delete(name, _blocking=False)  # does not wait: the server has seconds to stop
        elif not self._names:
            self.end()

    def end(self) -> None:
        """End the cluster if this process started it."""
        if self._watchdog is not None:
            import ray

            ray.shutdown()
            self._watchdog.end()


def cluster_device(settings: ServerSettings, count: int) -> str:
    """cpu or cuda, whichever the replicas use.

    Raises:
        ValueError: another device, or fewer devices than replicas.
    """
    import ray

    (asked,) = settings.devices
    there = ray.cluster_resources()
    device = ("cuda" if there.get("GPU") else "cpu") if asked == "auto" else asked
    if device not in ("cpu", "cuda"):
        raise ValueError(f"invalid device {device!r} with replicas: expected auto, cpu or cuda; Ray chooses which one")
    found = int(there.get("GPU" if device == "cuda" else "CPU", 0))
    if found < count:
        what = "GPUs" if device == "cuda" else "processor cores"
        raise ValueError(f"invalid replicas {count}: expected at most {found}, the {what} of the cluster")
    return device
