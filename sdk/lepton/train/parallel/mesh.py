"""Where a rank stands: its stage, its share of the data and its part of each layer, and the groups along these."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lepton.train.gang import Gang
from lepton.train.plan import Plan

AXES = ("pipeline", "data", "tensor")  # the innermost talks most, so its ranks are neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A rank's coordinates; `mesh` has the axes of AXES, and is None where only the data is divided."""

    rank: int
    device: torch.device
    data_rank: int
    data_size: int
    tensor_rank: int = 0
    pipeline_rank: int = 0
    mesh: DeviceMesh | None = None

    @classmethod
    def of(cls, plan: Plan, gang: Gang) -> Self:
        """This rank's place; every rank of the gang calls it."""
        data_size = plan.data_size(gang.world_size)
        if plan.data == "ddp" and plan.tensor == plan.pipeline == 1:
            return cls(rank=gang.rank, device=gang.device, data_rank=gang.rank, data_size=data_size)
        mesh = init_device_mesh(
            gang.device.type, (plan.pipeline, data_size, plan.tensor), mesh_dim_names=AXES
        )  # torch's own call
        return cls(
            rank=gang.rank,
            device=gang.device,
            data_rank=mesh.get_local_rank("data"),
            data_size=data_size,
            tensor_rank=mesh.get_local_rank("tensor"),
            pipeline_rank=mesh.get_local_rank("pipeline"),
            mesh=mesh,
        )

    def group(self, axis: str) -> dist.ProcessGroup:
        """The ranks that differ from this one along that axis only."""
        assert self.mesh is not None
        return self.mesh.get_group(axis)

    def along(self, axis: str) -> DeviceMesh:
        """The part of the mesh along that axis."""
        assert self.mesh is not None
        return self.mesh[axis]
