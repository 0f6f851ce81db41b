"""How fast a job goes with so many slices."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Amdahl's law with a cost of talking: the part that is not shared out, and what each further slice costs all."""

    serial: float = 0.0
    sync: float = 0.0  # of one slice's time, per further slice
    samples_per_s: float = 1.0  # with one slice

    def speed(self, slices: int) -> float:
        """How many times as fast as with one slice; 0 with none."""
        if slices <= 0:
            return 0.0
        return 1.0 / (self.serial + (1.0 - self.serial) / slices + self.sync * (slices - 1))

    def throughput(self, slices: int) -> float:
        """Samples per second, as a job would report them."""
        return self.samples_per_s * self.speed(slices)
