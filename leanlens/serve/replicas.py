"""Engines in other processes and on other machines, as one Ray Serve application for each device.

    this process                                     the cluster
    APIs - service - queue - worker 1 - ReplicaEngine ... Replica on device 1
                 \\ archive  \\ worker 2 - ReplicaEngine ... Replica on device 2

APIs, queue, jobs and archive stay in one process, so fair turns, progress and cancelling work as without replicas, and
no image is lost. The queue decides which device draws what, because it knows batches and opened models; a router in
front of several equal replicas could not. Ray Serve finds the devices, starts the replicas, watches them, and restarts
one that dies.
"""

import hashlib
import os
import platform

from leanlens.log import logger
from leanlens.serve.cluster import Cluster, cluster_device
from leanlens.serve.engine import Engine, EngineFactory, first_line
from leanlens.serve.library import Library
from leanlens.serve.replica import Replica
from leanlens.serve.replica_engine import ReplicaEngine
from leanlens.serve.settings import ServerSettings


def replica_engines(count: int) -> EngineFactory:
    """A factory of `count` engines on a Ray cluster: the one that RAY_ADDRESS names, or one on this machine.

    Raises (when called):
        ValueError: Ray is not installed, or the cluster has fewer devices.
    """

    def make(settings: ServerSettings, library: Library) -> list[Engine]:
        cluster = Cluster()
        engines: list[Engine] = []
        prefix = _prefix(settings)
        try:
            device = cluster_device(settings, count)
            _delete_old(prefix)
            for index in range(count):
                engines.append(_started(f"{prefix}-{index}", settings, library, device, count, cluster))
        except Exception:
            _delete_old(prefix)
            cluster.end()
            raise
        return engines

    return make


def _prefix(settings: ServerSettings) -> str:
    """What the names of this server's applications begin with; one server at a time uses a folder of images."""
    return f"leanlens-{hashlib.sha256(f'{platform.node()}:{settings.output.resolve()}'.encode()).hexdigest()[:8]}"


def _delete_old(prefix: str) -> None:
    """Delete the applications of a server of the same folder that was killed."""
    from ray import serve

    for name in serve.status().applications:
        if name.startswith(f"{prefix}-"):
            serve.delete(name)


def _started(
    name: str, settings: ServerSettings, library: Library, device: str, count: int, cluster: Cluster
) -> ReplicaEngine:
    try:
        return _deploy(name, settings, library, device, count, cluster)
    except Exception as error:
        raise ValueError(f"replica {name.rpartition('-')[2]} cannot be started: {first_line(error)}") from error


def _deploy(
    name: str, settings: ServerSettings, library: Library, device: str, count: int, cluster: Cluster
) -> ReplicaEngine:
    """Start one replica and wait until it answers."""
    from ray import serve

    # Ray limits a process with one core to one thread; a replica on a CPU takes its share of all cores.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    options = {
        "num_cpus": 1,
        "num_gpus": int(device == "cuda"),
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}},
    }
    deploy = serve.deployment(name="engine", num_replicas=1, max_ongoing_requests=16, ray_actor_options=options)
    handle = serve.run(deploy(Replica).bind(settings, device), name=name, route_prefix=None)
    engine = ReplicaEngine(name, handle, library, cluster)
    cluster.add(name)
    logger.info("%s runs on %s in %s", name, device, engine.location())
    return engine
