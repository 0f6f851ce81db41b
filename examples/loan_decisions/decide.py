"""Loans: a risk model that answers with the action of least expected cost, not with the likeliest class.

    lepton up && lepton login --user admin --password-file .lepton/secrets/admin-password
    lepton projects create loans && lepton projects use loans
    python examples/loan_decisions/decide.py

Makes 4,000 past loans, trains the `risk_model` recipe on most of them, and serves it with `costs.csv`: who repays earns
the bank 120, who defaults costs it 900, one who is refused and would have repaid 60, and to ask a person costs 25. New
loans are decided online, through the gateway; all of the past ones are scored by a batch prediction. Prints JSON.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np

from lepton import data
from lepton.cli.pipeline_file import PipelineOptions
from lepton.client import Client
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers

HERE = Path(__file__).parent
COLUMNS = ("income", "amount", "purpose", "years_employed")
PURPOSES = ("car", "house", "holiday")
ASK_COST = 25.0
ONLINE = 500


def loans(rows: int, seed: int) -> list[dict[str, object]]:
    """Past loans: who asks for much with little income, or for a holiday, defaults more often; some cells are empty."""
    random = np.random.default_rng(seed)
    income, amount = random.lognormal(3.5, 0.5, rows), random.lognormal(2.5, 0.8, rows)
    purpose, years = random.integers(0, 3, rows), random.gamma(2.0, 3.0, rows)
    risk = 2.2 * amount / income + 0.9 * (purpose == 2) - 0.15 * years - 1.6
    defaulted = random.random(rows) < 1 / (1 + np.exp(-risk))
    unknown = random.random(rows) < 0.05
    return [
        {
            "income": f"{income[at]:.2f}",
            "amount": f"{amount[at]:.2f}",
            "purpose": PURPOSES[purpose[at]],
            "years_employed": "" if unknown[at] else f"{years[at]:.1f}",
            "outcome": "defaults" if defaulted[at] else "repays",
        }
        for at in range(rows)
    ]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """The loans as CSV."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*COLUMNS, "outcome"])
        table.writeheader()
        table.writerows(rows)
    return path


def train(client: Client, table: data.Table, name: str) -> str:
    """Trains, registers; the version's name."""
    dataset = client.artifacts.upload(data.to_safetensors(table)).digest
    recipe = Recipe(name="risk_model", epochs=15)
    job = client.jobs.create(name, Job(recipe=recipe, dataset=dataset, workers=Workers(count=1)))
    ended = client.jobs.wait(job.name, timeout_s=300)
    if not ended.package:
        raise SystemExit(f"the training has failed: {ended.message}")
    return client.models.register(name, ended.package).name


def mean_cost(costs: np.ndarray, actions: np.ndarray, outcomes: np.ndarray) -> float:
    """What the actions have really cost, on average; the last action is to ask a person."""
    table = np.column_stack([costs, np.full(len(costs), ASK_COST)])
    return float(table[outcomes, actions].mean())


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000, help="how many loans there were")
    parser.add_argument(
        "--name", default="loans", help="of the job, the model, the deployment and the batch prediction"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Client() as client:
        past = write(Path(folder, "past.csv"), loans(options.rows, seed=1))
        fresh = write(Path(folder, "fresh.csv"), loans(ONLINE, seed=2))
        version_name = train(client, data.read("table", str(past), target="outcome"), options.name)
        version = client.models.get_version(version_name.split("/versions/")[0], version_name.rpartition("/")[2])

        around = PipelineOptions(cost_matrix=HERE / "costs.csv", abstain_cost=ASK_COST).read(version)
        client.deployments.create(options.name, version_name, pipeline=around)
        served = client.deployments.wait(options.name, timeout_s=300)
        if served.state != Deployment.READY:
            raise SystemExit(f"it is not served: {served.message}")
        table = data.read("table", str(fresh), target="outcome")
        answer = client.predict(options.name, table.x)

        started = client.batch_predictions.create(
            options.name, version_name, client.artifacts.upload(past).digest, workers=2, shard_rows=1000
        )
        scored = client.batch_predictions.wait(started.name, timeout_s=300)
        result = Path(folder, "scores.npz")
        if scored.state == BatchPrediction.SUCCEEDED:
            client.batch_predictions.download(scored.name, result)
        rows = len(np.load(result)["row"]) if result.exists() else 0

    with (HERE / "costs.csv").open() as file:
        states = {row["state"]: [float(row["grant"]), float(row["refuse"])] for row in csv.DictReader(file)}
    costs = np.array([states[name] for name in table.names])
    actions, likeliest = answer["action"].ravel(), answer["probabilities"].argmax(1)
    naive = np.array([1, 0])[likeliest]  # refuse whom the model believes to default
    taken, counts = np.unique(answer["action_name"].astype(str), return_counts=True)
    report = {
        "actions": dict(zip(taken.tolist(), counts.tolist(), strict=True)),
        "mean_cost_of_decisions": round(mean_cost(costs, actions, table.y), 2),
        "mean_cost_of_the_likeliest_class": round(mean_cost(costs, naive, table.y), 2),
        "mean_cost_of_granting_all": round(mean_cost(costs, np.zeros_like(table.y), table.y), 2),
        "rows_scored_in_batch": rows,
        "batch_rows_per_s": round(scored.progress.rows_per_s),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
