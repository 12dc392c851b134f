"""Ranks on this machine; those of other nodes are started by hand, with the command that is shown."""

import shlex
from typing import Literal, Self

from pydantic import Field, model_validator

from recsys_core.launch import config, kept, processes
from recsys_core.launch.launchers import base
from recsys_core.launch.launchers.base import Stage, Started
from recsys_core.progress import Event


class Config(config.Config):
    """Ranks on this machine; those of other nodes are started by hand, with the command that is shown."""

    kind: Literal["local"] = "local"
    rendezvous_endpoint: str | None = Field(
        default=None,
        pattern=r"^([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$",
        description="host:port on one of the nodes; needed with several",
    )

    @model_validator(mode="after")
    def _meets(self) -> Self:
        if self.num_nodes > 1 and self.rendezvous_endpoint is None:
            raise ValueError("rendezvous_endpoint: missing; with launch.num_nodes > 1 it is host:port on one of them")
        if self.num_nodes == 1 and self.rendezvous_endpoint is not None:
            raise ValueError("rendezvous_endpoint: one node meets no other; remove it, or set launch.num_nodes")
        return self


class Launcher(base.Launcher[Config]):
    """Starts torchrun here, or the only rank, unless there are ranks that wait for their next stage."""

    def start(self, stage: Stage) -> Started:
        """See `base.Launcher.start`."""
        with stage.log.open("w") as output:
            environment = processes.environment(self.config, stage.reads)
            ranks = kept.ranks_for(stage.name, self.config)
            if ranks is not None:
                ranks.ask(stage.name, stage.request, stage.events, stage.log, environment)
                return ranks
            arguments = processes.stage_arguments(stage.name, stage.request, stage.events)
            meeting = [f"--rdzv-id={stage.key}", f"--rdzv-endpoint={self.config.rendezvous_endpoint}"]
            starter = processes.starter(self.config, meeting)
            if self.config.num_nodes > 1:
                self._ask_for_others([*starter, *arguments], stage)
            return processes.Ranks([*starter, *arguments, "--watch-stdin"], environment, output.fileno())

    def _ask_for_others(self, command: list[str], stage: Stage) -> None:
        restarting = [f"{name}={value}" for name, value in processes.RESTARTING.items() if self.config.max_restarts]
        there = shlex.join([*(["env", *restarting] if restarting else []), "python", *command])
        others = self.config.num_nodes - 1
        stage.sink(Event(stage=stage.name, message=f"waiting for {others} more nodes; on each of them run: {there}"))
