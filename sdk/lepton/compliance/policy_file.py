"""A policy as people write it: TOML, YAML or JSON, in the words of the proto.

display_name = "Data stays in the EU"
mode = "ENFORCE"                     # DRY_RUN, WARN or ENFORCE
remedy = "REPORT"                    # of what exists: REPORT or QUARANTINE
projects = ["projects/acme"]         # of the organisation's: for these only

[[rules]]
id = "region"
residency = {allowances = [{region = "eu", pool_regions = ["eu-west", "eu-central"]}], require_label = true}

[[rules]]
id = "licence"
license = {allowed = ["Apache-2.0", "MIT", "CC-BY-4.0"], require_label = true}

[[rules]]
id = "checkpoints"
retention = {kind = "CHECKPOINTS", max_age = "7776000s", min_age = "604800s"}

[[rules]]
id = "production"
deployment = {deployments = ["prod-*"], members = ["users/release"], stages = ["PRODUCTION"], require_gate = true}

[[rules]]
id = "gates"
promotion = {gates = [{metric = "accuracy", min = 0.95}], tags = ["model-card"], four_eyes = true, lineage = true}
"""

from pathlib import Path

from google.protobuf.json_format import ParseDict, ParseError

from lepton.auth.v1.compliance_pb2 import CompliancePolicy
from lepton.documents import read_document


def read(path: Path) -> CompliancePolicy:
    """The policy in a file. Raises ValueError saying what is wrong, OSError."""
    try:
        return ParseDict(read_document(path), CompliancePolicy())
    except (ParseError, RecursionError) as error:
        raise ValueError(str(error)) from None
