"""AsyncClient and its groups for programs without an event loop: the same methods, which block."""

from lepton.client.blocking.auth import (
    BlockingAccess,
    BlockingApiKeys,
    BlockingAudit,
    BlockingCompliance,
    BlockingEncryption,
    BlockingFederation,
    BlockingJoinTokens,
    BlockingLimits,
    BlockingProjects,
    BlockingRoleBindings,
    BlockingSecrets,
    BlockingServiceAccounts,
    BlockingUsers,
)
from lepton.client.blocking.client import Client
from lepton.client.blocking.inference import (
    BlockingBatchPredictions,
    BlockingDeployments,
    BlockingModels,
    BlockingOptimizations,
)
from lepton.client.blocking.scheduler import (
    BlockingExplain,
    BlockingFloatingResources,
    BlockingNodes,
    BlockingPlanning,
    BlockingPools,
    BlockingQueues,
    BlockingUsage,
    BlockingWorkloads,
)
from lepton.client.blocking.trainer import BlockingArtifacts, BlockingJobs

__all__ = [
    "BlockingAccess",
    "BlockingApiKeys",
    "BlockingArtifacts",
    "BlockingAudit",
    "BlockingBatchPredictions",
    "BlockingCompliance",
    "BlockingDeployments",
    "BlockingEncryption",
    "BlockingExplain",
    "BlockingFederation",
    "BlockingFloatingResources",
    "BlockingJobs",
    "BlockingJoinTokens",
    "BlockingLimits",
    "BlockingModels",
    "BlockingNodes",
    "BlockingOptimizations",
    "BlockingPlanning",
    "BlockingPools",
    "BlockingProjects",
    "BlockingQueues",
    "BlockingRoleBindings",
    "BlockingSecrets",
    "BlockingServiceAccounts",
    "BlockingUsage",
    "BlockingUsers",
    "BlockingWorkloads",
    "Client",
]
