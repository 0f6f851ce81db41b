"""The models that NVIDIA's example clients call, made again for Triton's Python backend, with nothing of theirs."""

from collections.abc import Sequence
from pathlib import Path

from lepton.golden import Golden
from services.agent.served_model import ServedModel

PROJECT = "demo"
_PROGRAMS = Path(__file__).parent / "models"
_STARTED = "control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }"
_ENDED = "control { kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] }"
_READY = "control { kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] }"


def deployed(name: str) -> str:
    """The name that the gateway serves an example's model under: its project's deployment."""
    return f"{PROJECT}.{name.replace('_', '-')}"


def example_models() -> list[ServedModel]:
    """All of them, under their names at the gateway."""
    pairs = {"simple": "INT32", "simple_int8": "INT8", "simple_string": "STRING"}
    models = [
        _model(name, "elementwise", _tensors("input", "INPUT0 INPUT1", kind, 16), _tensors("output", _OUT, kind, 16))
        for name, kind in pairs.items()
    ]
    for name, kind in {"simple_identity": "STRING", "identity_fp32": "FP32", "custom_identity_int32": "INT32"}.items():
        models.append(_model(name, "identity", _tensors("input", "INPUT0", kind), _tensors("output", "OUTPUT0", kind)))
    sequence = [_tensors("input", "INPUT", "INT32", 1), _tensors("output", "OUTPUT", "INT32", 1)]
    direct = f'control_input [{{ name: "START" {_STARTED} }}, {{ name: "READY" {_READY} }}]'
    models.append(_model("simple_sequence", "sequence", *sequence, f"sequence_batching {{ {direct} }}"))
    told = "control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }"
    controls = f'{{ name: "END" {_ENDED} }}, {{ name: "CORRID" {told} }}, {{ name: "START" {_STARTED} }}'
    batching = f"sequence_batching {{ oldest {{ max_candidate_sequences: 4 }} control_input [{controls}] }}"
    models.append(_model("simple_dyna_sequence", "sequence", *sequence, batching))
    given = [_tensors("input", *each) for each in (("IN", "INT32"), ("DELAY", "UINT32"), ("WAIT", "UINT32", 1))]
    decoupled = "model_transaction_policy { decoupled: true }"
    models.append(_model("repeat_int32", "repeat", *given, _tensors("output", "OUT", "INT32", 1), decoupled, batch=0))
    return models


_OUT = "OUTPUT0 OUTPUT1"


def _tensors(where: str, names: str, kind: str, size: int = -1) -> str:
    return "\n".join(f'{where} {{ name: "{name}" data_type: TYPE_{kind} dims: {size} }}' for name in names.split())


def _model(name: str, program: str, *config: str, batch: int = 8) -> ServedModel:
    # A Triton model may be named with a dot; the folder has the same name.
    text = "\n".join([f'name: "{deployed(name)}" backend: "python" max_batch_size: {batch}', *config])
    files: dict[str, bytes | Path] = {"config.pbtxt": text.encode(), "1/model.py": _PROGRAMS / f"{program}.py"}
    return ServedModel(name=deployed(name), files=files, golden=Golden(inputs={}, outputs={}))


def names(models: Sequence[ServedModel]) -> list[str]:
    """The names that are served."""
    return [model.name for model in models]
