"""Seeds of tests that draw their own examples."""

import os
import random


def some_seed() -> int:
    """LEPTON_SEED, to repeat a run; else a new one with LEPTON_EXAMPLES=new, and the same as ever without. Printed."""
    seed = int(os.environ.get("LEPTON_SEED", "0")) or 1
    if "LEPTON_SEED" not in os.environ and os.environ.get("LEPTON_EXAMPLES") == "new":
        seed = random.SystemRandom().randrange(1, 1 << 32)
    print(f"LEPTON_SEED={seed}")
    return seed
