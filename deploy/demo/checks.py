"""What the demo compares: answers of the served model, and the outputs of the checkpoint that it was made from."""

import asyncio
import json
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc as tritonclient
from tritonclient.utils import InferenceServerException

from lepton import data
from lepton.client import AsyncClient
from lepton.profile import Profile

Array = NDArray[Any]
_BATCH: Final = 16
_PATIENCE_S: Final = 15.0


def held_out(source: str, count: int) -> tuple[Array, Array]:
    """Images that the training did not see, as the model takes them, and their labels."""
    dataset = data.load(source)
    chosen = data.split(len(dataset), test_fraction=0.2, seed=0).test[:count]
    return dataset.x[chosen].astype(np.float32), dataset.y[chosen]


def predictions(profile: Profile, token: str, model_name: str, inputs: Array, traceparent: str) -> Array:
    """The served model's outputs, asked for with NVIDIA's own client."""
    client = tritonclient.InferenceServerClient(
        profile.gateway,
        ssl=True,
        root_certificates=str(profile.trust_bundle),
        channel_args=[("grpc.ssl_target_name_override", "gateway")],
    )
    headers = {"authorization": f"Bearer {token}", "traceparent": traceparent}
    answers = []
    try:
        for begin in range(0, len(inputs), _BATCH):
            batch = np.ascontiguousarray(inputs[begin : begin + _BATCH])
            tensor = tritonclient.InferInput("x", list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch)
            answers.append(_infer(client, model_name, tensor, headers).as_numpy("logits"))
    finally:
        client.close()
    return np.concatenate(answers)


def _infer(client: Any, model_name: str, tensor: Any, headers: dict[str, str]) -> Any:
    """One call, repeated for a while when the gateway has no replica for it: NVIDIA's client does not retry."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return client.infer(model_name, [tensor], headers=headers)
        except InferenceServerException as error:
            if "UNAVAILABLE" not in str(error.status()) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


async def checkpoint_outputs(client: AsyncClient, package: str, inputs: Array) -> Array:
    """What the model of a package answers when it is run by torch, here."""
    manifest = json.loads(await client.artifacts.download(package))
    weights = await client.artifacts.download(manifest["files"]["weights.safetensors"])
    return await asyncio.to_thread(_run, manifest, weights, inputs)


def _run(manifest: dict[str, Any], weights: bytes, inputs: Array) -> Array:
    import torch  # seconds to import: only here
    from safetensors.torch import load

    from lepton.models import Architecture, build

    model = build(Architecture.from_json(manifest["architecture"]))
    model.load_state_dict(load(weights))
    model.eval()
    with torch.inference_mode():
        outputs: Array = model(torch.from_numpy(inputs)).numpy()
    return outputs
