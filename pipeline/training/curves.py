"""What hands numbers and drawings of a run to its trackers, each on a thread of its own: none holds up a step."""

from __future__ import annotations

import importlib.util
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconvnet.files import find_object, publish_json
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.report.pictures import picture
from laconvnet.pipeline.report.sheet import Card
from laconvnet.pipeline.runs.layout import LOG, TRACKERS
from laconvnet.pipeline.training.log_config import LogConfig
from laconvnet.terminal import complain, one_line

if TYPE_CHECKING:
    from laconvnet.pipeline.training.trackers import Begun, Known, Tracker

WAITING = 1000  # points and pictures that may wait for a slow tracker before it is given up
LAST_SECONDS = 60.0  # for what still waits when the run ends
_REMEDIES = {
    "wandb": "log in (`wandb login`), keep it here with WANDB_MODE=offline, or leave it out",
    "mlflow": "see to the server that MLFLOW_TRACKING_URI names, unset it to keep it here, or leave it out",
}


def check(config: LogConfig) -> None:
    """Raises ConfigError for a tracker whose package is not installed."""
    for name in config.trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"log.trackers: {name!r}: it is not installed; pip install 'laconvnet[trackers]', or leave it out"
            )


class Curves:
    """The trackers of one start of a run; the main process has them. What fails meanwhile is told once and left out."""

    def __init__(self, config: LogConfig, run: Path, step: int, facts: Mapping[str, Any]) -> None:
        """Join them behind this step, with what is to be known of the run.

        Raises ConfigError for one that cannot even begin; a start that goes on is told of it in a line.
        """
        from laconvnet.pipeline.training.trackers import Begun

        self._feeds: list[_Feed] = []
        kept = find_object(run / TRACKERS) or {}
        for name in config.trackers:
            known = kept.get(name)
            begun = Begun(run.absolute(), config.project, step, facts, known if isinstance(known, dict) else {})
            feed = _Feed(name, begun, f"{run / LOG} goes on")
            try:
                kept[name] = feed.joined()
            except Exception as error:
                if step or isinstance(error, OSError):
                    feed.tell(error)
                    continue
                self.end(failed=True)
                remedy = _REMEDIES.get(name, "leave it out")
                raise ConfigError(f"log.trackers: {name}: {_reason(error)}; {remedy}") from error
            self._feeds.append(feed)
        if kept:
            publish_json(run / TRACKERS, kept)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """A point of each curve."""
        for feed in self._feeds:
            feed.give(lambda tracker: tracker.curve(values, step))

    def show(self, name: str, cards: Sequence[Card], step: int) -> None:
        """The drawn examples of a validation."""
        pictures = [picture(card) for card in cards]
        for feed in self._feeds:
            feed.give(lambda tracker: tracker.show(name, pictures, step))

    def end(self, failed: bool) -> None:
        """Wait for what they were given, but not for long."""
        for feed in self._feeds:
            feed.give(lambda tracker: tracker.end(failed))
        for feed in self._feeds:
            feed.close()


class _Feed(threading.Thread):
    """One tracker and its thread. MLflow keeps the run that is under way by thread: all calls are made on this one."""

    def __init__(self, name: str, begun: Begun, otherwise: str) -> None:
        super().__init__(name=name, daemon=True)
        self._begun, self._otherwise = begun, otherwise
        self._waiting: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(WAITING)
        self._first: Future[Known] = Future()
        self._lost = False

    def joined(self) -> Known:
        """Begin, and wait until the tracker has; raises what it raised."""
        self.start()
        return self._first.result()

    def give(self, work: Callable[[Tracker], None]) -> None:
        """To be done in its turn; nothing where the tracker is lost."""
        if self._lost:
            return
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            self.tell(TimeoutError(f"{WAITING} points wait for it"))

    def close(self) -> None:
        """Wait for the last of what was given."""
        if self._lost:
            return
        self._waiting.put(None)
        self.join(LAST_SECONDS)
        if self.is_alive():
            self.tell(TimeoutError(f"it has not taken its last points in {LAST_SECONDS:.0f} s"))

    def tell(self, error: BaseException) -> None:
        """One line of what failed; it is given nothing more."""
        self._lost = True
        complain(f"log.trackers: {self.name}: {_reason(error)}; its curves end here, {self._otherwise}")

    def run(self) -> None:
        from laconvnet.pipeline.training.trackers import TRACKERS

        try:
            tracker: Tracker = TRACKERS[self.name](self._begun)
            self._first.set_result(tracker.join())
        except BaseException as error:
            self._first.set_exception(error)
            return
        try:
            while work := self._waiting.get():
                work(tracker)
        except Exception as error:
            self.tell(error)


def _reason(error: BaseException) -> str:
    return one_line(str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}")
