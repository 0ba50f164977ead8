"""The papers' recipes and ablations under `configs/`: each builds its model and takes two steps on small images.

The network is that of the paper; the data are the generator's, in the original layouts, through shards and loader.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import Loader, Request
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import build_model
from laconvnet.pipeline.tasks import TASKS
from laconvnet.pipeline.training.optimizer import build_optimizer
from laconvnet.pipeline.training.schedule import learning_rate

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
RECIPES = sorted(file for folder in ("pretrain", "finetune", "v1", "ablation") for file in (CONFIGS / folder).glob("*"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_recipe_takes_two_steps(file: Path, sets: dict[str, Path], groups: Path) -> None:
    task_name = configuration.load(file, ["--data.folder", "x"]).model.task
    folder = groups if task_name == "grec" else sets["clevr" if TASKS[task_name].kind == "question" else "refcoco"]
    config = configuration.load(file, ["--data.folder", str(folder), "--data.size", "64"])
    task_class = TASKS[task_name]
    examples = Examples.open(folder, task_class.kind, "train")
    task_class.check(examples)
    if task_class.kind == "question":
        examples = examples.answered()
        answers = [answer for answer in examples.answers(examples.rows) if answer is not None]
    else:
        answers = []
    vocabulary = Vocabulary.build(examples.texts(examples.rows), answers)
    torch.manual_seed(0)
    assert config.data.vectors == "data/glove.840B.300d.txt", "of 300 numbers, frozen"
    vectors = torch.randn(len(vocabulary), 300)
    model = build_model(config.model, len(vocabulary), len(vocabulary.answers), vectors).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # v1's "Base" hears no words, and a box is not asked of them.
    deaf = config.model.block == "group_conv" and task_name == "rec"
    heard = [one for name, one in model.named_parameters() if one.requires_grad and not (deaf and "language." in name)]
    optimizer = build_optimizer(config.optimizer, trained, torch.device("cpu"))
    task = task_class(config.model, vocabulary)
    device = torch.device("cpu")
    with closing(Loader(examples, vocabulary, config.data, 2, device, masks=task.wants_masks)) as loader:
        for step in range(2):
            batch = loader.batch(Request(examples.rows[2 * step : 2 * step + 2]))
            before = [parameter.detach().clone() for parameter in trained]
            loss = torch.stack(list(task.loss(model(batch.images, batch.tokens).float(), batch).values())).sum()
            assert loss.isfinite()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, config.optimizer.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.schedule, config.optimizer.lr, step, 100)
            optimizer.step()
            moved = {id(new): bool((old != new).any()) for old, new in zip(before, trained, strict=True)}
            assert sum(moved[id(one)] for one in heard) > 0.9 * len(heard)
            assert all(bool(parameter.isfinite().all()) for parameter in trained)
