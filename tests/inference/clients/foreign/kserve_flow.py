"""KServe's own client against a gateway: `python kserve_flow.py ADDRESS CERTIFICATE TOKEN MODEL`, in KServe's Python.

The model adds and subtracts two INT32 tensors of 16. Prints one JSON object of what was seen.
"""

import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main(address: str, certificate: str, token: str, model: str) -> None:
    bearer = (("authorization", f"Bearer {token}"),)
    one, other = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    seen: dict[str, object] = {}
    async with InferenceGRPCClient(address, use_ssl=True, root_certificates=certificate, retries=2) as client:
        seen["live"] = await client.is_server_live(headers=bearer)
        seen["ready"] = await client.is_server_ready(headers=bearer)
        seen["model ready"] = await client.is_model_ready(model, headers=bearer)
        for kind in ("raw", "typed"):
            inputs = []
            for name, values in (("INPUT0", one), ("INPUT1", other)):
                given = InferInput(name, [1, 16], "INT32")
                given.set_data_from_numpy(values, binary_data=kind == "raw")
                inputs.append(given)
            answer = await client.infer(InferRequest(model_name=model, infer_inputs=inputs), headers=bearer)
            seen[kind] = [output.as_numpy().ravel().tolist() for output in answer.outputs]
        refusals = {"no token": (model, ()), "no model": (f"{model}-none", bearer)}
        for what, (name, headers) in refusals.items():
            try:
                await client.infer(InferRequest(model_name=name, infer_inputs=inputs), headers=headers)
            except grpc.RpcError as error:
                seen[what] = error.code().name
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
