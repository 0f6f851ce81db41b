"""AOTInductor engines on a GPU against eager torch on the same GPU: latency at batch 1, throughput at batch 32.

    python -m bench.gpu_engines [--repeats 300]

Two models, a CNN and a transformer, of the recipes' architectures at sizes that a GPU is used for; the weights are
random, because the time does not depend on them. Eager is the float32 module as torch runs it, under `inference_mode`,
and beside it eager in the engine's own precision. Each engine's answers are compared with the float32 module's. Prints
JSON; where there is no GPU it says so, and ends with exit code 3.
"""

import argparse
import json
import sys
from typing import Any

from bench.peers import gpu_models

NO_GPU = 3


def main() -> int:
    """Builds, compares, measures, prints."""
    parser = argparse.ArgumentParser(description="Measures AOTInductor engines on a GPU.")
    parser.add_argument("--repeats", type=int, default=300, help="calls of each contender in each of five rounds")
    given = parser.parse_args()
    device = gpu_models.device()
    if not device:
        print("there is no GPU here, so nothing was measured", file=sys.stderr)
        return NO_GPU
    results: dict[str, Any] = {"bench": "gpu_engines", "device": device, "torch": gpu_models.version(), "models": {}}
    for name, model, inputs in gpu_models.models():
        print(f"{name} ...", file=sys.stderr, flush=True)
        results["models"][name] = gpu_models.measured(model, inputs, given.repeats)
    print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
