"""One rank of a few training steps, as the loop takes them, writing what the test wants to see of each.

ORDER=SEED in its environment shuffles the examples within each batch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.loader import Loader, Request
from laconvnet.pipeline.tasks import TASKS
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.optimizer import build_optimizer
from laconvnet.pipeline.training.start import start

STEPS = 3


def main(out: Path, file: Path, keys: list[str]) -> None:
    config = configuration.load(file, keys)
    task_class = TASKS[config.model.task]
    examples = Examples.open(Path(config.data.folder), task_class.kind, config.data.split)
    items = Items.of(examples, config.seed)
    with Engine(config.engine, config.data.batch, config.optimizer.clip) as engine:
        start_state = start(config, None, examples)
        model = start_state.model
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        wrapped = engine.wrap(model, build_optimizer(config.optimizer, trained, engine.device))
        loader = Loader(examples, start_state.vocabulary, config.data, config.data.batch // engine.world, engine.device)
        task = task_class(config.model, start_state.vocabulary)
        seen, order = [], os.environ.get("ORDER")
        for step in range(STEPS):
            rows = items.step(step, config.data.batch, engine.rank, engine.world)
            batch = loader.batch(Request(np.random.default_rng(int(order)).permutation(rows) if order else rows))
            loss = torch.stack(list(task.loss(wrapped(batch.images, batch.tokens), batch).values())).sum()
            wrapped.backward(loss)
            given = [(name, weight.grad) for name, weight in model.named_parameters()]
            gradients = {name: gradient.clone() for name, gradient in given if gradient is not None}
            norm, _ = engine.step(wrapped, trained)
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            seen.append(
                {
                    "rows": batch.rows.tolist(),
                    "loss": loss.item(),
                    "norm": norm.item(),
                    "gradients": gradients,
                    "state": state,
                }
            )
        torch.save(seen, out / f"rank{engine.rank}.pt")
        loader.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
