"""What jobs have measured: curves by metric, compared, plotted, as TensorBoard's files; loads no plotting library."""

from lepton.curves.comparison import Comparison, compare
from lepton.curves.curves import Curve, Curves, is_better_when_small
from lepton.curves.sparkline import sparkline

__all__ = ["Comparison", "Curve", "Curves", "compare", "is_better_when_small", "sparkline"]
