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

import json
import tomllib
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from lepton.auth.v1.compliance_pb2 import CompliancePolicy


def read(path: Path) -> CompliancePolicy:
    """The policy in a file. Raises ValueError saying what is wrong, OSError."""
    try:
        return ParseDict(_document(path), CompliancePolicy())
    except (ParseError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _document(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text)
    if path.suffix == ".json":
        return json.loads(text)
    import yaml  # seldom wanted

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
