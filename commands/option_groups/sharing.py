"""The options of steps that can be shared: on a cluster, or part by part under a scheduler."""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from configs.errors import UserError

if TYPE_CHECKING:
    from configs.remote.cluster import Cluster


@dataclass(frozen=True)
class ClusterOptions:
    """Where the tasks of a large step run."""

    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="ray",
            help="Run the tasks on a Ray cluster: that of RAY_ADDRESS, or this machine.",
        ),
    ] = None

    def cluster(self) -> "AbstractContextManager[Cluster | None]":
        """The cluster, for a `with` block; None without the option.

        Raises:
            UserError: nothing of this name runs tasks.
        """
        if self.on is None:
            return nullcontext()
        if self.on != "ray":
            raise UserError(f"--on {self.on}: expected ray. Leave it out to use this process.")
        from configs.remote.cluster import Cluster

        return Cluster()


@dataclass(frozen=True)
class ShardOptions(ClusterOptions):
    """How a large step is shared: on a cluster, or by parts that a scheduler starts."""

    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do only part I of N, for any other scheduler."),
    ] = None

    def part(self) -> tuple[int, int] | None:
        """(I, N) of --shard.

        Raises:
            UserError: the option is not I/N, or a cluster is to do all parts.
        """
        if self.shard is None:
            return None
        if self.on is not None:
            raise UserError("--on does all parts, and --shard does one. Give one of them.")
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(
                f"--shard {self.shard}: expected I/N with 1 <= I <= N, as in --shard 1/4."
            )
        return int(match[1]), int(match[2])
