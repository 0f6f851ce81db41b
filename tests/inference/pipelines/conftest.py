"""What tests of pipelines share: packages in a store, a registry's answers about them, prepared pipelines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from chassis.artifacts import ArtifactStore as Artifacts
from lepton.artifacts import ArtifactStore
from lepton.inference.v1.pipeline_pb2 import Pipeline
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.models import ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, ONNX
from lepton.scheduler.v1.program_pb2 import ServedModel
from services.inference.pipelines.layout import Layout
from services.inference.pipelines.prepare import PrepareSpec, prepare
from services.inference.pipelines.preparing import build

Array = np.ndarray[Any, Any]


def linear_onnx(weights: Array, given: str = "x", made: str = "logits") -> bytes:
    """`made = given @ weights`."""
    inputs, outputs = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", [given, "w"], [made])],
        "linear",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info(made, TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    )


@dataclass
class Shelf:
    """A store with packages."""

    url: str
    packages: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, Signature] = field(default_factory=dict)

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.url)

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.url)

    def add(self, version: str, weights: Array, given: str = "x", made: str = "logits") -> None:
        """A linear model under a version's name, with golden samples of its own."""
        x = np.random.default_rng(5).normal(size=(16, len(weights))).astype(np.float32)
        signature = Signature(
            inputs=(Tensor(name=given, datatype="FP32", shape=(-1, weights.shape[0])),),
            outputs=(Tensor(name=made, datatype="FP32", shape=(-1, weights.shape[1])),),
        )
        package = ModelPackage(
            files={
                ONNX: self.store.put_bytes("demo", linear_onnx(weights, given, made)),
                GOLDEN: self.store.put_bytes("demo", save({given: x, made: x @ weights})),
            },
            signature=signature,
            metrics={},
            lineage={},
        )
        self.packages[version] = self.store.put_bytes("demo", package.render())
        self.signatures[version] = signature

    def layout(self, pipeline: Mapping[str, Any]) -> Layout:
        return Layout.of(ParseDict(pipeline, Pipeline()), self.signatures)

    def prepared(self, pipeline: Mapping[str, Any]) -> str:
        """The digest of the manifest that the preparation slice would report."""
        parsed = ParseDict(pipeline, Pipeline())
        explicit = Layout.of(parsed, self.signatures).explicit(parsed)
        digest = self.store.put_bytes("demo", explicit.SerializeToString())
        return prepare(self.store, PrepareSpec(project="demo", pipeline=digest, packages=self.packages))

    async def served(self, pipeline: Mapping[str, Any], deployment: str = "risk") -> list[ServedModel]:
        """What a revision with the pipeline has its servers load."""
        revision = DeploymentRevision(name=f"projects/demo/deployments/{deployment}/revisions/1")
        return await build(revision, self.prepared(pipeline), self.artifacts)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(f"file://{tmp_path}/artifacts")
