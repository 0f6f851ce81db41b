"""What a batch prediction is made of, each by itself: division, reading, prediction, writing, joining, states."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from safetensors.numpy import save

from lepton.artifacts import ArtifactStore
from lepton.client.batch_results import joiner
from lepton.errors import InvalidArgument
from lepton.inference.v1.batch_prediction_pb2 import BatchInput, BatchPrediction
from lepton.models import Signature, Tensor
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.batch.bad_row import BadRow
from services.inference.batch.division import TableFacts, form_of, rows_of, shard_size
from services.inference.batch.documents import Plan, Shard, ShardReport
from services.inference.batch.fitness import check_signature
from services.inference.batch.prediction import Predicted, predict
from services.inference.batch.reading import read
from services.inference.batch.shard import run_shard
from services.inference.batch.states import NEXT, move, observe, run_request
from services.inference.batch.writing import write
from tests.inference.batch.conftest import SIGNATURE, WEIGHTS, npz
from tests.inference.pipelines.conftest import linear_onnx

Format = BatchInput.Format
X = np.arange(40, dtype=np.float32).reshape(10, 4)


def rows(data: bytes, form: Any = Format.FORMAT_UNSPECIFIED, columns: tuple[str, ...] = ()) -> list[Any]:
    """Every row of a dataset, in shards of three."""
    divided = rows_of(data, form_of(data, form), columns, SIGNATURE)
    return [row for start, _, part in divided.parts(3) for row in read(part, divided.kind, start, SIGNATURE)]


CSV = "a,label,b,c,d\n" + "".join(f"{r[0]},1,{r[1]},{r[2]},{r[3]}\n" for r in X)
JSONL = "\n\n".join(json.dumps({"x": row.tolist(), "id": at}) for at, row in enumerate(X))


@pytest.mark.parametrize(
    "data",
    [npz(X), save({"x": X, "y": np.zeros(10)}), save({"other": X.astype(np.uint8)}), CSV.encode(), JSONL.encode()],
    ids=["npz", "safetensors", "another name and type", "csv", "jsonl"],
)
def test_a_dataset_of_any_form_is_read_in_its_order(data: bytes) -> None:
    assert np.array_equal(np.stack([row["x"] for row in rows(data)]), X)


def test_columns_are_taken_in_the_order_that_is_asked_for() -> None:
    assert np.array_equal(rows(CSV.encode(), columns=("d", "c", "b", "a"))[2]["x"], X[2][[3, 2, 1, 0]])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (npz(X[:, :3]), r"float32 of shape \[10, 3\]; the model takes FP32\[-1, 4\]"),
        (npz(np.array([["a"] * 4])), "the model takes FP32"),
        (b"PK\x03\x04 broken", "no NPZ archive"),
        (save({"a": X, "b": X}), "has no array 'x' but a, b"),
        (b"a,b,c\n1,2,3\n", "takes 4 columns, and 3 are chosen"),
        (b"\xff\xfe\x00,b\n", "not UTF-8"),
    ],
)
def test_what_the_model_cannot_take_at_all_is_refused_whole(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        rows(data)
    assert refused.value.reason == "BATCH_INPUT_INVALID"


def test_a_csv_row_of_another_length_or_kind_is_bad_and_no_other() -> None:
    data = b'a,b,c,d\n1,2,3,4\n1,2,3\n1,2,x,4\n"1","2","3","4"\n1,,3,4\n'
    found = rows(data)
    assert [row.reason if isinstance(row, BadRow) else "" for row in found] == [
        "", "UNREADABLE", "WRONG_TYPE", "", "WRONG_TYPE",
    ]  # fmt: skip


def test_a_table_is_read_as_the_model_was_trained_on_it() -> None:
    facts = TableFacts.parse(
        json.dumps({"columns": ["c", "a", "b", "d"], "categories": [[], ["red", "blue"], [], []], "names": []}).encode()
    )
    data = b"a,b,c,d,label\nblue,1,2,3,x\nred,,5,6,x\ngreen,7,8,9,x\n"
    divided = rows_of(data, Format.CSV, (), SIGNATURE, facts)
    found = list(read(divided.part(0, 3), divided.kind, 0, SIGNATURE, allow_missing=True))
    right = np.array([[2, 1, 1, 3], [5, 0, np.nan, 6], [8, np.nan, 7, 9]], np.float32)
    np.testing.assert_array_equal(np.stack([row["x"] for row in found]), right)
    strict = list(read(divided.part(0, 3), divided.kind, 0, SIGNATURE))
    assert [isinstance(row, BadRow) for row in strict] == [False, True, True]
    assert TableFacts.parse(b"{}") == TableFacts.parse(b"no json") == TableFacts()


def test_the_row_that_the_model_fails_on_is_found_and_costs_no_other() -> None:
    calls = []

    def model(inputs: Any) -> Any:
        calls.append(len(inputs["x"]))
        if (inputs["x"] == 13).any():
            raise RuntimeError("thirteen")
        return {"logits": np.where(inputs["x"] == 21, np.nan, inputs["x"])}

    done = list(predict(model, [{"x": row} for row in X], 100, 8))
    assert [each.row for each in done] == list(range(100, 110))
    bad = {each.row: (each.reason, each.message) for each in done if isinstance(each, BadRow)}
    assert bad == {103: ("MODEL_FAILED", "thirteen"), 105: ("OUTPUT_NOT_FINITE", "logits holds NaN or infinity")}
    assert len(calls) < 10  # halves, not one row after the other


def test_a_shard_that_is_run_twice_is_reported_once(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}")
    divided = rows_of(npz(X), Format.NPZ, (), SIGNATURE)
    shards = tuple(Shard(start=s, rows=n, data=store.put_bytes("p", part)) for s, n, part in divided.parts(4))
    onnx = store.put_bytes("p", linear_onnx(WEIGHTS))
    plan = Plan(onnx=onnx, signature=SIGNATURE, input=divided.kind, output="NPZ", batch_size=3, shards=shards)
    assert Plan.parse(plan.render()) == plan
    reports = [run_shard(store, "p", plan, 1, "batches/u") for _ in range(2)]
    assert reports[0] == reports[1]
    ((digest, _),) = store.listing("p", area="batches/u")
    assert ShardReport.parse(store.read("p", digest)) == reports[0]


@pytest.mark.parametrize("form", ["NPZ", "JSONL"])
def test_the_shards_files_are_joined_to_one(form: str, tmp_path: Path) -> None:
    done = [Predicted(at, {"logits": X[at, :3]}) for at in range(10)]
    done[4:6] = [BadRow(row=4, reason="NOT_FINITE", message=""), BadRow(row=5, reason="NOT_FINITE", message="")]
    path = tmp_path / "whole"
    with joiner(form, path) as joined:
        for start in range(0, 10, 2):
            joined.append(write(form, done[start : start + 2], SIGNATURE))
        assert not path.exists()
        joined.finish()
    if form == "JSONL":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["row"] for line in lines] == list(range(10))
        assert ["error" in line for line in lines].count(True) == 2
    else:
        with np.load(path) as archive:
            assert archive["row"].tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
            assert np.array_equal(archive["logits"], X[archive["row"], :3])
    assert list(tmp_path.iterdir()) == [path]


def test_equal_rows_give_equal_files() -> None:
    done = [Predicted(at, {"logits": X[at, :3]}) for at in range(10)]
    assert write("NPZ", done, SIGNATURE) == write("NPZ", done, SIGNATURE)
    with np.load(io.BytesIO(write("NPZ", [], SIGNATURE))) as archive:
        assert archive["logits"].shape == (0, 3)


@pytest.mark.parametrize(
    ("counts", "size"), [((10, 4, 0), 64), ((100_000, 4, 0), 6250), ((10**8, 4, 0), 65_536), ((10**8, 1, 10), 10_000)]
)
def test_shards_have_a_fair_size(counts: tuple[int, int, int], size: int) -> None:
    assert shard_size(*counts) == size


def test_a_model_without_rows_is_refused() -> None:
    whole = Signature(inputs=(Tensor(name="x", datatype="FP32", shape=(4,)),), outputs=SIGNATURE.outputs)
    with pytest.raises(InvalidArgument, match="tensor x is FP32"):
        check_signature(whole)


def test_progress_and_states_follow_the_reports() -> None:
    shards = tuple(Shard(start=at, rows=50, data="sha256:" + "a" * 64) for at in (0, 50))
    plan = Plan(
        onnx="sha256:" + "b" * 64, signature=SIGNATURE, input="ARRAYS", output="NPZ", batch_size=8, shards=shards
    )
    batch = BatchPrediction(
        name="projects/p/batchPredictions/b", uid="0123456789", max_workers=9, state=BatchPrediction.RUNNING
    )
    request = run_request(batch, plan)
    assert (request.workload.array.task_count, request.workload.groups[0].max_count) == (2, 2)
    assert request == run_request(batch, plan)
    bad = (BadRow(row=7, reason="NOT_FINITE", message="x"),)
    report = ShardReport(shard=0, start=0, rows=50, file="sha256:" + "c" * 64, bad=bad)
    workload = Workload(name="w", start_time=Timestamp(seconds=100))
    observe(batch, plan, {0: report}, workload, Timestamp(seconds=110))
    told = batch.progress
    assert (told.rows, told.rows_done, told.bad_rows, told.rows_per_s, told.eta_s) == (100, 50, 1, 5.0, 10.0)
    assert batch.bad_rows[0].row == 7
    observe(batch, plan, {0: report}, workload, Timestamp(seconds=200))
    assert batch.progress.rows_per_s == 5.0  # waiting for the next report is no slower work
    assert not move(batch, BatchPrediction.CANCELLED, "", Timestamp())
    assert move(batch, BatchPrediction.SUCCEEDED, "", Timestamp())
    assert set(NEXT) == set(BatchPrediction.State.values()) - {0}
