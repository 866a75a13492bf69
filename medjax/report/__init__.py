"""Reports: only draw what a run has written."""

from medjax.report.console import summary_table
from medjax.report.figures import draw, learning_curves, save
from medjax.report.html import write_html

__all__ = ["draw", "learning_curves", "save", "summary_table", "write_html"]
