"""Reports: only draw what a run has written."""

from medjax.report.compare import compare_runs, write_comparison
from medjax.report.console import comparison_table, summary_table
from medjax.report.curves import learning_curves
from medjax.report.figures import draw, save
from medjax.report.html import write_html

__all__ = [
    "compare_runs",
    "comparison_table",
    "draw",
    "learning_curves",
    "save",
    "summary_table",
    "write_comparison",
    "write_html",
]
