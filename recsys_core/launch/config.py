"""The section `launch`."""

from typing import Self

from pydantic import Field, model_validator

from recsys_core.artifacts import Frozen


class Config(Frozen):
    """YAML section `launch`: on how many processes the ranked stages run."""

    num_ranks: int = Field(default=1, ge=1, description="processes per node; one per GPU, or a few per CPU")
    num_nodes: int = Field(default=1, ge=1, description="nodes that share the run directory")
    rendezvous_endpoint: str | None = Field(
        default=None,
        pattern=r"^([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$",
        description="host:port on one of the nodes; needed with several",
    )
    threads_per_rank: int | None = Field(default=None, ge=1, description="null: this machine's cores shared out")
    max_restarts: int = Field(
        default=0,
        ge=0,
        description="how often torchrun starts all ranks again after one has died; training goes on from its last "
        "checkpoint",
    )
    stage_timeout_seconds: float | None = Field(
        default=None, gt=0, description="a stage that takes longer fails; null: never"
    )
    stop_grace_seconds: float = Field(
        default=20.0,
        ge=0,
        description="what training that is asked to stop has for its last checkpoint; Prefect's cancellation gives 30",
    )

    @model_validator(mode="after")
    def _meets(self) -> Self:
        if self.num_nodes > 1 and self.rendezvous_endpoint is None:
            raise ValueError("rendezvous_endpoint: missing; with launch.num_nodes > 1 it is host:port on one of them")
        if self.num_nodes == 1 and self.rendezvous_endpoint is not None:
            raise ValueError("rendezvous_endpoint: one node meets no other; remove it, or set launch.num_nodes")
        return self

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.num_ranks * self.num_nodes


def alone(config: Config) -> Config:
    """Return `config` for a stage that runs as one process, with all the threads that the ranks would have had."""
    threads = config.threads_per_rank and config.threads_per_rank * config.num_ranks
    one = {"num_ranks": 1, "num_nodes": 1, "rendezvous_endpoint": None, "max_restarts": 0}
    return config.model_copy(update=one | {"threads_per_rank": threads})
