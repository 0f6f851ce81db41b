"""Documents that people write: TOML, YAML or JSON, told apart by the file's ending."""

import json
import tomllib
from pathlib import Path
from typing import Any


def read_document(path: Path) -> Any:
    """What is in a file. Raises ValueError saying where it is wrong, OSError."""
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
