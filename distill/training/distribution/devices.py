"""The devices that train one network together, each with a share of every batch."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import keras
import tensorflow as tf

from configs.errors import UserError
from distill.training.distribution.processes import Group, current
from distill.training.precision import leaves

log = logging.getLogger("potstill")

Devices = int | Literal["all"]


@dataclass(frozen=True)
class Replicas:
    """Devices that each have a copy of a network and a share of every batch.

    Attributes:
        num: how many devices, those of all processes.
        scope: within it, networks are built on all devices, and trained.
        group: the processes; None if there is one.
    """

    num: int
    scope: Callable[[], AbstractContextManager[Any]]
    group: Group | None = None

    def agreed(self, find: Callable[[], Any]) -> Any:
        """What `find` returns in the first process, as JSON values."""
        return find() if self.group is None else self.group.agreed(find)

    @property
    def share(self) -> tuple[int, int]:
        """The number of the share of every batch that this process reads, and of all shares."""
        # Within a process, the backend splits the batch among its devices.
        return (0, 1) if self.group is None else (self.group.index, self.group.num_processes)


def find_replicas(devices: Devices) -> Replicas | None:
    """The devices of a config; None if one device trains alone.

    Raises:
        UserError: there are not so many devices.
    """
    return _of_jax(devices) if keras.backend.backend() == "jax" else _of_tensorflow(devices)


def _of_jax(devices: Devices) -> Replicas | None:
    import jax

    group = current()
    if group is None and devices == 1:
        return None
    counts = Counter(device.process_index for device in jax.devices())
    if devices == "all" and len(set(counts.values())) > 1:
        raise UserError(
            f"distribution.devices is all, and the processes have {sorted(counts.values())} "
            f"devices. Expected equally many. Set it to {min(counts.values())} or less."
        )
    num = _number(devices, min(counts.values()), jax.devices()[0].platform)
    chosen = [
        f"{device.platform}:{device.id}"
        for process in sorted(counts)
        for device in [d for d in jax.devices() if d.process_index == process][:num]
    ]
    if len(chosen) == 1:
        return None
    # Every process makes its own share of the views. Keras would make all of them and drop most.
    parallel = keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False)
    return Replicas(len(chosen), parallel.scope, group)


def _of_tensorflow(devices: Devices) -> Replicas | None:
    names = [device.name for device in tf.config.list_logical_devices("GPU")]
    kind = "gpu" if names else "cpu"
    names = names or [device.name for device in tf.config.list_logical_devices("CPU")]
    if devices == 1:
        return None
    names = names[: _number(devices, len(names), kind)]
    if len(names) == 1:
        return None
    return Replicas(len(names), tf.distribute.MirroredStrategy(names).scope)


def _number(devices: Devices, available: int, kind: str) -> int:
    if devices == "all":
        return available
    if devices > available:
        raise UserError(
            f"distribution.devices is {devices}, and a process sees {available} "
            f"{kind.upper()} devices. Expected at most that many. Set it to all, or to 1."
        )
    return devices


def suggest_devices() -> None:
    """Log that there are more GPUs than the one that trains."""
    if keras.backend.backend() == "jax":
        import jax

        kinds = [device.platform for device in jax.local_devices()]
    else:
        kinds = ["gpu" for _ in tf.config.list_physical_devices("GPU")]
    if len(kinds) > 1 and "cpu" not in kinds:
        log.info("1 of %d GPUs trains. All: --set distribution.devices=all", len(kinds))


def check_batch(section: str, batch_size: int, replicas: Replicas) -> None:
    """Check that a batch can be split evenly.

    Args:
        section: of the config, for errors.

    Raises:
        UserError: it cannot.
    """
    if batch_size % replicas.num:
        fitting = max(batch_size // replicas.num, 1) * replicas.num
        raise UserError(
            f"a batch of {section} has {batch_size} photos, and {replicas.num} devices train. "
            f"Expected a multiple of {replicas.num}: --set {section}.batch_size={fitting}"
        )


def synchronize(network: keras.Model) -> None:
    """Let BatchNormalization see the whole batch, as on one device. On JAX it always does."""
    if keras.backend.backend() == "tensorflow":
        for layer in leaves(network):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
