"""Figures as inline SVG. Text and axes take the page's own colour, so they read on light and dark alike."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure

INK: Final = "#010203"
"""Stands for the page's text colour and is replaced by it."""
_PIXELS_PER_POINT: Final = 1.5
"""Greatest size of a plot on the page."""
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "axes.titlesize": 10.5,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.grid": True, "grid.color": "#888888", "grid.alpha": 0.25,
    "grid.linewidth": 0.6, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "legend.frameon": False,
    "legend.handlelength": 3, "lines.linewidth": 1.8, "axes.axisbelow": True, "text.parse_math": False,
}


def drawn(name: str, alt: str, draw: Callable[[], Figure | None]) -> str | None:
    """The figure that ``draw`` makes, as an SVG element; None where it makes none.

    Args:
        name: begins every id in the SVG: several figures share one page.
        alt: what the figure shows, for those who do not see it.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = draw()
        return None if figure is None else _svg(figure, name, alt)


def _svg(figure: Figure, name: str, alt: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", dpi=200,
                   metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg"):].replace(INK, "currentColor")
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    opening = re.search(r'<svg [^>]*?viewBox="(0 0 ([\d.]+) [\d.]+)"[^>]*>', svg)
    assert opening is not None, "matplotlib writes a viewBox that starts at 0 0"
    return (f'<svg viewBox="{opening[1]}" style="max-width: {_PIXELS_PER_POINT * float(opening[2]):.0f}px" role="img" '
            f'aria-label="{alt}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
            + svg[opening.end():])
