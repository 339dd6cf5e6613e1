"""Live progress, tables and pictures."""

from btm.report.heatmap import heatmap
from btm.report.progress import ConsoleReporter, Progress, Reporter, quiet

__all__ = ["ConsoleReporter", "Progress", "Reporter", "heatmap", "quiet"]
