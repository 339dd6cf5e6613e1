"""The report of a forest: all that stands in it, as one HTML file. Nothing is trained or scored."""

from btm.steps.report.facts import Cycle, Facts, JobRow, Rebuilding, Try
from btm.steps.report.gather import gather, plan_of_report, report, report_file

__all__ = [
    "Cycle",
    "Facts",
    "JobRow",
    "Rebuilding",
    "Try",
    "gather",
    "plan_of_report",
    "report",
    "report_file",
]
