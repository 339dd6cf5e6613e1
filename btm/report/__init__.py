"""Live progress, tables and pictures."""

from btm.report.heatmap import heatmap
from btm.report.progress import Beating, ConsoleReporter, Progress, Reporter, quiet

__all__ = ["Beating", "ConsoleReporter", "Progress", "Reporter", "heatmap", "quiet"]
