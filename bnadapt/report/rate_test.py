"""The plot of a range test: the loss while the learning rate rises, and the rate that it suggests."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from bnadapt.report.style import BLUE, GREY, VERMILION, new_figure


def rate_test(
    stage: str,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
) -> Figure:
    """Loss of every step's batch over its learning rate, on a logarithmic axis, smoothed, with the suggestion."""
    figure, axes = new_figure(f"Learning rate for {stage}: {suggestion:.2g}")
    axes.semilogx(rates, losses, ".", color=GREY, alpha=0.5, markersize=5, label="one batch")
    axes.semilogx(rates, smoothed, color=BLUE, linewidth=2.2, label="smoothed")
    axes.axvline(suggestion, color=VERMILION, linewidth=1.8, linestyle="--", label="used")
    # Where the loss runs away the rest would be flat against it.
    low, start = min(smoothed), smoothed[0]
    axes.set_ylim(low - 0.1 * (start - low) - 0.02, max(start, *smoothed[: len(smoothed) // 2]) * 1.3 + 0.02)
    axes.set_xlabel("learning rate", fontsize=12)
    axes.set_ylabel("loss on training batches", fontsize=12)
    axes.legend(frameon=False, fontsize=11)
    return figure
