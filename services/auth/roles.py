"""The roles: what each may do, as permission patterns (`jobs.*` is every verb on jobs, `*` everything)."""

from collections.abc import Mapping
from typing import Final

VIEWER: Final = frozenset(
    {
        "batchPredictions.get", "batchPredictions.list", "batchPredictions.watch",
        "complianceExemptions.list", "complianceFindings.list", "compliancePolicies.get", "compliancePolicies.list",
        "dataLabels.list",
        "deployments.get", "deployments.list", "deployments.watch",
        "jobs.get", "jobs.list", "jobs.logs", "jobs.watch",
        "models.get", "models.list",
        "optimizations.get", "optimizations.list", "optimizations.watch",
        "projects.get",
        "workloads.get", "workloads.list", "workloads.watch",
    }
)  # fmt: skip

# Trains and serves within a project.
DEVELOPER: Final = VIEWER | {
    "artifacts.create", "artifacts.get",
    "batchPredictions.cancel", "batchPredictions.create", "batchPredictions.delete",
    "dataLabels.create",
    "deployments.create", "deployments.delete", "deployments.update",
    "jobs.cancel", "jobs.create", "jobs.delete",
    "models.create", "models.delete", "models.quarantine", "models.update",
    "optimizations.cancel", "optimizations.create", "optimizations.delete",
    "secrets.create", "secrets.delete", "secrets.get", "secrets.list", "secrets.update", "secrets.use",
    "workloads.cancel", "workloads.create", "workloads.delete", "workloads.update",
}  # fmt: skip

# Runs the machines and stops what harms them; sees what runs, but no project's data.
OPERATOR: Final = VIEWER | {
    "auditRecords.export", "auditRecords.list", "auditRecords.verify",
    "authorities.list",
    "encryption.get", "encryption.rotate",
    "floatingResources.create", "floatingResources.delete", "floatingResources.update",
    "jobs.cancel",
    "joinTokens.create",
    "models.quarantine",
    "nodes.update",
    "pools.create", "pools.delete", "pools.update",
    "queues.create", "queues.delete", "queues.update",
    "workloads.admit", "workloads.cancel",
}  # fmt: skip

ADMIN: Final = frozenset({"*"})

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "roles/viewer": VIEWER,
    "roles/developer": DEVELOPER,
    "roles/operator": OPERATOR,
    "roles/admin": ADMIN,
}
