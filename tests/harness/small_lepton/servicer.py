"""What all servicers here have."""

from tests.harness.small_lepton.world import World


class Servicer:
    """Answers from the world."""

    def __init__(self, world: World) -> None:
        self.world = world
