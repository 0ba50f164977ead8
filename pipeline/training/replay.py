"""One step of a run again, from the state before it, in fp32 and under autograd's anomaly detection."""

from __future__ import annotations

import warnings
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.layout import CONFIG, INCIDENT_STATE, step_of
from laconvnet.pipeline.training import checkpoint, guard, kernels
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.session import Session, Source, in_full_precision
from laconvnet.pipeline.training.start import Start, rebuild
from laconvnet.terminal import complain


def replay(run: Path, step: int) -> dict[str, Any]:
    """Run step `step` (counted from 0, as the guard tells it) of this run again; nothing in its folder changes.

    It begins with what the guard kept of that step, else with the newest checkpoint before it, from which the steps
    between are taken as the run took them. The samples, their order and dropout are those of the run on any number of
    processes.

    Returns {"step", "from", "terms", "gradient_norm", "finite", "first_not_finite", "anomaly", "largest_gradients"}:
    the first module whose output was not finite, what anomaly detection said of the backward pass, and the weights
    with the largest gradients. Raises ConfigError where there is nothing to begin with.
    """
    config = in_full_precision(configuration.load(run / CONFIG))
    source = Source.open(config)
    if not 0 <= step < source.total:
        raise ConfigError(f"{run}: step {step}: this run has the steps 0 to {source.total - 1}")
    place = _before(run, step)
    state, words = checkpoint.read(place, checkpoint.RESUMES)
    vocabulary = Vocabulary.from_json(words)
    start_state = Start(rebuild(config, vocabulary, state["model"]), vocabulary, state, f"replaying from {place}")
    with Engine(config.engine, config.data.batch, config.optimizer.clip) as engine:
        kernels.settle(start_state.model, engine)
        session = Session(config, source, engine, start_state)
        with closing(session.stream(start_state.step)) as stream:
            for earlier in range(start_state.step, step):
                session.step(earlier, list(islice(stream, config.engine.accumulate)))
                complain(f"step {earlier} taken, {step - earlier} to go")
            found = _examined(session, step, list(islice(stream, config.engine.accumulate)))
    return {"step": step, "from": str(place), **found}


def _before(run: Path, step: int) -> Path:
    kept = guard.folder_of(run, step) / INCIDENT_STATE
    if kept.is_dir():
        return checkpoints.resolve(kept)
    earlier = [place for place in checkpoints.published(run) if step_of(place) <= step]
    if not earlier:
        raise ConfigError(f"{run}: no checkpoint at or before step {step} is left; checkpoint.keep says how many stay")
    return checkpoints.resolve(earlier[-1])


def _examined(session: Session, step: int, batches: list[Batch]) -> dict[str, Any]:
    """The forward and backward pass of a step with eyes open; the weights stay."""
    session.seed_step(step)
    anomaly = None
    terms: dict[str, torch.Tensor] = {}
    with warnings.catch_warnings(record=True) as warned, guard.first_not_finite(session.model) as modules:
        warnings.simplefilter("always")
        try:
            with torch.autograd.set_detect_anomaly(True):
                for number, batch in enumerate(batches):
                    with session.drawn(step, number, batch):
                        # Without the engine around it: anomaly detection must see the model's own graph.
                        new = session.task.loss(session.model(batch.images, batch.tokens).float(), batch)
                        torch.stack(list(new.values())).sum().backward()
                    for name, value in new.items():
                        terms[name] = terms.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            traces = [str(warning.message) for warning in warned if "Traceback of forward call" in str(warning.message)]
            anomaly = "\n".join([str(error), *traces])
    gradients = {
        name: parameter.grad.norm()
        for name, parameter in session.model.named_parameters()
        if parameter.grad is not None
    }
    total = torch.linalg.vector_norm(torch.stack(list(gradients.values()))) if gradients else torch.tensor(0.0)
    largest = sorted(gradients, key=lambda name: -torch.nan_to_num(gradients[name], torch.inf).item())[:5]
    finite = anomaly is None and all(bool(value.isfinite()) for value in (*terms.values(), total))
    return {
        "terms": {name: float(value) for name, value in terms.items()},
        "gradient_norm": float(total),
        "finite": finite,
        "first_not_finite": modules[0] if modules else None,
        "anomaly": anomaly,
        "largest_gradients": {name: float(gradients[name]) for name in largest},
    }
