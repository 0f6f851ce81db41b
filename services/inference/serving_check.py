"""What of a deployment's serving options cannot be, found when they are given rather than when a server starts."""

from lepton.errors import InvalidArgument
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.names import VersionName
from services.inference.triton_repository.options import ServingOptions


def check_serving(deployment: Deployment) -> None:
    """Raises InvalidArgument, which names the field."""
    options = ServingOptions.of(deployment.serving)
    number = deployment.model_version.rpartition("/")[2]
    if options.version_policy is not None and number.isdigit():
        options.version_policy.versions(int(VersionName.parse(deployment.model_version).version))
    if not options.shared:
        return
    apart = {
        "pipeline": deployment.HasField("pipeline"),
        "pools": bool(deployment.pools),
        "replicas": deployment.replicas > 1,
        "cpu_milli": bool(deployment.cpu_milli),
        "memory_bytes": bool(deployment.memory_bytes),
    }
    for field, is_set in apart.items():
        if is_set:
            problem = (
                "is for a deployment with servers of its own: leave it out (replicas: 1), or leave serving.shared out"
            )
            raise InvalidArgument("INVALID_FIELD", fields={f"deployment.{field}": problem})
