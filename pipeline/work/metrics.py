"""How far the work is, as metrics of Ray: in its dashboard, and at every node's Prometheus endpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pipeline.work.progress import Figures, Work, under_way

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

EVERY_S: Final = 5.0
NAMES: Final = {
    "mentorec_done": "Things done of the work that is under way.",
    "mentorec_total": "Things to do in it.",
    "mentorec_per_second": "Things done per second, without the start.",
    "mentorec_prompt_tokens_per_second": "Prompt tokens that a language model has read, per second of its pass.",
    "mentorec_output_tokens_per_second": "Tokens that it has written."}
"""Gauges, which Ray prefixes with `ray_`; tags: `work` (its progress line's label) and `unit`."""


@contextmanager
def published() -> Iterator[None]:
    """While the block runs, the driver tells Ray how far it is. Ray must be initialised."""
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(name, described, tag_keys=("work", "unit")) for name, described in NAMES.items()}
    over = threading.Event()

    def tell() -> None:
        last: Work | None = None
        ended = False
        while not ended:
            ended = over.wait(EVERY_S)
            work = None if ended else under_way()
            if last is not None and last is not work:
                _set(gauges, last.figures(), at_work=False)
            if work is not None:
                _set(gauges, work.figures(), at_work=True)
            last = work

    thread = threading.Thread(target=tell, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _set(gauges: dict[str, Gauge], figures: Figures | None, at_work: bool) -> None:
    """Of work that is over: what was done, and no speed."""
    if figures is None:
        return
    rates = {"per_second": figures.per_second,
             **{f"{name}_per_second": rate for name, rate in figures.rates.items()}}
    values = {"done": figures.done, "total": figures.total, **(rates if at_work else dict.fromkeys(rates, 0.0))}
    for name, value in values.items():
        gauges[f"mentorec_{name}"].set(value, {"work": figures.label, "unit": figures.unit})
