"""The trackers that draw a run's curves: accelerate's, each joined to the tracker run of the start before.

A run that is resumed repeats the steps behind its checkpoint. TensorBoard is told to drop what it had of them; the
others plot by the step that stands beside each value, and are given the same values again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

from laconvnet.pipeline.config import as_yaml
from laconvnet.pipeline.report.pictures import Picture
from laconvnet.pipeline.runs.layout import CONFIG

_NOT_IN_ITS_NAMES = re.compile(r"[^\w\-. :/]")  # MLflow refuses all points of a step for the @ of acc@0.5

Known = Mapping[str, Any]  # what is kept of a tracker's run: how to find it again, and its `url` where it has one


@dataclass(frozen=True)
class Begun:
    """A start of a run: its folder, the step that it begins behind, and what the tracker kept at the start before.

    ``facts`` are the resolved configuration, key by key, and the fingerprints of data, code and configuration.
    """

    run: Path
    project: str
    step: int
    facts: Mapping[str, Any]
    known: Known


class Tracker(Protocol):
    """One tracker; all of its methods are called on one thread of the main process."""

    def join(self) -> Known:
        """Begin a tracker run, or go on in the one that is known; what to keep of it."""

    def curve(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""

    def show(self, name: str, pictures: Sequence[Picture], step: int) -> None:
        """Add the drawn examples of a validation."""

    def end(self, failed: bool) -> None:
        """Hand over what is left, and say how the run ended."""


class TensorBoard(TensorBoardTracker):  # type: ignore[misc]
    """Event files in the run's folder."""

    def __init__(self, begun: Begun) -> None:
        super().__init__("tensorboard", begun.run, purge_step=begun.step + 1)
        self._begun = begun

    def join(self) -> Known:
        self.start()
        text = as_yaml(dict(self._begun.facts))
        self.writer.add_text("configuration", "    " + text.replace("\n", "\n    "), self._begun.step)
        return {}

    def curve(self, values: Mapping[str, float], step: int) -> None:
        self.log(dict(values), step=step)

    def show(self, name: str, pictures: Sequence[Picture], step: int) -> None:
        for number, picture in enumerate(pictures):
            tag = f"{name}/{number}"
            self.log_images({tag: np.asarray(picture.image)[None]}, step=step, dataformats="NHWC")
            self.log({f"{tag}/text": picture.caption}, step=step)

    def end(self, failed: bool) -> None:
        self.finish()


class WeightsAndBiases(WandBTracker):  # type: ignore[misc]
    """wandb: online, or under WANDB_MODE=offline in the run's folder, from where `wandb sync` hands it over."""

    def __init__(self, begun: Begun) -> None:
        identity = begun.known.get("id") or uuid4().hex[:8]
        project = os.environ.get("WANDB_PROJECT", begun.project)
        super().__init__(project, id=identity, name=begun.run.name, dir=str(begun.run), resume="allow")
        self._facts = dict(begun.facts)

    def join(self) -> Known:
        self.start()
        # Without it wandb counts calls, and drops what is said again of an earlier one.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")
        self.store_init_configuration(self._facts)
        return {"id": self.run.id, "url": self.run.url}

    def curve(self, values: Mapping[str, float], step: int) -> None:
        self.log({**values, "step": step})

    def show(self, name: str, pictures: Sequence[Picture], step: int) -> None:
        import wandb

        self.log({name: [wandb.Image(each.image, caption=each.caption) for each in pictures], "step": step})

    def end(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow(MLflowTracker):  # type: ignore[misc]
    """MLflow: the server of MLFLOW_TRACKING_URI; without one a file store in the run's folder."""

    def __init__(self, begun: Begun) -> None:
        super().__init__(begun.project, run_id=begun.known.get("id"), run_name=begun.run.name)
        self._begun = begun

    def join(self) -> Known:
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow asks for it since it prefers databases
            mlflow.set_tracking_uri((self._begun.run / "mlruns").as_uri())
        self.start()
        run = self.active_run.info
        if not self.run_id:  # a parameter, once given, cannot be given another value
            self.store_init_configuration(dict(self._begun.facts))
        mlflow.log_artifact(str(self._begun.run / CONFIG))
        where = mlflow.get_tracking_uri()
        url = f"{where.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
        return {"id": run.run_id, "url": url if where.startswith("http") else None}

    def curve(self, values: Mapping[str, float], step: int) -> None:
        self.log({_NOT_IN_ITS_NAMES.sub("_", name): value for name, value in values.items()}, step=step)

    def show(self, name: str, pictures: Sequence[Picture], step: int) -> None:
        import mlflow

        for number, picture in enumerate(pictures):
            mlflow.log_image(picture.image, key=f"{name}/{number}", step=step)

    def end(self, failed: bool) -> None:
        import mlflow

        mlflow.end_run("FAILED" if failed else "FINISHED")


TRACKERS: Mapping[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
