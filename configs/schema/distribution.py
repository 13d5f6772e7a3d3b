"""`DistributionConfig`: the devices and processes that train one network together."""

from typing import Annotated, Literal

from pydantic import Field

from configs.records import Strict


class DistributionConfig(Strict):
    """Devices and processes share every batch. A training ends in the same place with any number of
    them, except for rounding, and goes on with another number."""

    devices: Annotated[int, Field(gt=0)] | Literal["all"] = 1
    """Devices of each process that train together: a number, or all that it sees. GPUs where there
    are any, otherwise CPUs. batch_size is that of all together."""
    processes: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Processes that train together, on the backend JAX. auto: as many as a launcher started. A
    number: stop if there are not so many. 1: train alone, whatever a launcher started."""
