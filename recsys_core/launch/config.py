"""The section `launch`: what every kind of launcher reads of it."""

from pydantic import Field

from recsys_core.artifacts import ComponentConfig


class Config(ComponentConfig):
    """YAML section `launch`: where the ranked stages run, and on how many processes."""

    num_ranks: int = Field(default=1, ge=1, description="processes per node; one per GPU, or a few per CPU")
    num_nodes: int = Field(default=1, ge=1, description="nodes that share the run directory")
    threads_per_rank: int | None = Field(default=None, ge=1, description="null: the machine's cores shared out")
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

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.num_ranks * self.num_nodes


def alone(config: Config) -> Config:
    """Return `config` for a stage that runs as one process, with all the threads that the ranks would have had."""
    threads = config.threads_per_rank and config.threads_per_rank * config.num_ranks
    one = {"num_ranks": 1, "num_nodes": 1, "rendezvous_endpoint": None, "max_restarts": 0, "threads_per_rank": threads}
    return config.model_copy(update={key: value for key, value in one.items() if key in type(config).model_fields})
