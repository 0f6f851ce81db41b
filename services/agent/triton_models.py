"""Brings one model from the artifact store to this node, in the best form that the node's Triton can run."""

from pathlib import Path

from lepton.golden import Golden
from lepton.repository import CONFIG, Manifest, Offer
from lepton.scheduler.v1 import program_pb2
from services.agent.model_cache import ModelFiles
from services.agent.served_model import ServedModel


def fetch(store: ModelFiles, project: str, model: program_pb2.ServedModel, folder: Path, offered: Offer) -> ServedModel:
    """The model with its files in `folder`; reads the store.

    Raises InvalidArgument for a manifest or golden requests that are none, FailedPrecondition (NO_ENGINE_FOR_NODE).
    """
    variant = Manifest.parse(store.read(project, model.repository)).choose(offered)
    files: dict[str, bytes | Path] = {}
    for number, (path, digest) in enumerate(sorted(variant.files.items())):
        target = folder / str(number)  # never a name that the manifest chose
        store.fetch_to(project, digest, target)
        files[path] = target
    config = (folder / str(sorted(variant.files).index(CONFIG))).read_text()
    golden = Golden.parse(store.read(project, variant.golden or model.golden), config)
    engine = f"{variant.engine}/{variant.key}" if variant.key else variant.engine
    return ServedModel(name=model.name, files=files, golden=golden, engine=engine)
