"""What a run measured, as one self-contained page with figures."""

from moslim_core.report.content import Both, ReportContent, Sample, SampleRow
from moslim_core.report.drawing import save_png, to_svg
from moslim_core.report.figures import all_figures, curves
from moslim_core.report.page import render
from moslim_core.report.samples import median_prompt, side_by_side
from moslim_core.report.summary import Finding, Summary, summarise

__all__ = [
    "Both",
    "Finding",
    "ReportContent",
    "Sample",
    "SampleRow",
    "Summary",
    "all_figures",
    "curves",
    "median_prompt",
    "render",
    "save_png",
    "side_by_side",
    "summarise",
    "to_svg",
]
