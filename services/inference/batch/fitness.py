"""Which models can be applied to datasets; pure."""

from lepton.errors import InvalidArgument
from lepton.golden import DATATYPES
from lepton.models import Signature


def check_signature(signature: Signature) -> None:
    """Raises InvalidArgument for a model that takes or gives something else than batches of numbers."""
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.datatype not in DATATYPES or tensor.shape[:1] != (-1,):
            problem = f"the model's tensor {tensor.name} is {tensor.datatype}{list(tensor.shape)}"
            raise InvalidArgument(
                "BATCH_INPUT_INVALID", problem=f"{problem}; it must be numbers whose first -1 is rows"
            )
