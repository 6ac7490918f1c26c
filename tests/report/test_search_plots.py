"""The plots of a search hold every trial and say which is the best."""

import numpy as np
from matplotlib.text import Annotation

from bnadapt.report.search_plots import TrialPoint, against_each_setting, search_drawings, trials_over_time

POINTS = [
    TrialPoint(1, {"rate": 1e-4, "where": "before"}, "complete", 0.8),
    TrialPoint(2, {"rate": 1e-2, "where": "after"}, "complete", 0.7),
    TrialPoint(3, {"rate": 1e-3, "where": "after"}, "complete", 0.9, True),
    TrialPoint(4, {"rate": 1e-1, "where": "before"}, "failed", None),
    TrialPoint(5, {"rate": 5e-4, "where": "before"}, "pruned", 0.5),
]


def test_the_plot_over_time_holds_every_trial_and_the_best_so_far() -> None:
    (axes,) = trials_over_time(POINTS, standing=0.8, baseline=0.6).axes
    marks = {
        str(each.get_label()): np.asarray(each.get_offsets()).tolist()
        for each in axes.collections
        if len(each.get_offsets())
    }
    assert marks["finished"] == [[1, 0.8], [2, 0.7]]
    assert marks["best"] == [[3, 0.9]]
    assert marks["stopped early"] == [[5, 0.5]]
    lines = {str(each.get_label()): np.asarray(each.get_ydata()).tolist() for each in axes.lines}
    assert lines["best so far"] == [0.8, 0.8, 0.9, 0.9]
    assert lines["settings as they stand"][0] == 0.8
    assert [text.xy[0] for text in axes.texts if isinstance(text, Annotation)] == [4]


def test_every_setting_has_a_panel_of_its_own() -> None:
    panels = [axes for axes in against_each_setting(POINTS, ["rate"]).axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in panels] == ["rate", "where"]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear"]
    assert [text.get_text() for text in panels[1].get_xticklabels()] == ["after", "before"]
    best = next(each for each in panels[1].collections if each.get_label() == "best")
    assert round(float(np.asarray(best.get_offsets())[0][0])) == 0
    for drawing in search_drawings(POINTS, standing=None, baseline=None, logarithmic=["rate"]):
        assert drawing.png().startswith(b"\x89PNG")
