"""A folder as model hubs keep them: weights, configuration, and a card that says what it is.

model.safetensors   what `laconvnet export --format safetensors` writes
config.json         task, step and the whole configuration
README.md           the card: metadata of the Hub's card format, scores of the run, how to ask the model
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from laconvnet.files import find_object, publish_json, publish_text
from laconvnet.pipeline import yaml_files
from laconvnet.pipeline.report.scores import headline
from laconvnet.pipeline.runs.layout import EVALUATIONS

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_PIPELINES = {"vqa": "visual-question-answering", "rec": "zero-shot-object-detection"}  # else the one of masks

_TEXT = """
# LaConvNet, {task}

Trained by `laconvnet` to step {step}. Its convolution filters are written by the words, pixel by pixel.

```python
import laconvnet

model = laconvnet.load("{name}")
print(model("street.jpg", "the red car on the left"))
```

{scores}
"""


def complete(folder: Path, name: str, facts: dict[str, str], run: Path) -> None:
    """Write configuration and card beside the weights in ``folder``, which will be called ``name``."""
    tree = yaml_files.value(facts["config"])
    told = {"model_type": "laconvnet", "task": facts["task"], "step": int(facts["step"]), "configuration": tree}
    publish_json(folder / CONFIG, told)
    publish_text(folder / CARD, card(name, facts, results(run)))


def results(run: Path) -> list[dict[str, Any]]:
    """The results of `eval` that a run's folder holds."""
    found = (find_object(file) for file in sorted((run / EVALUATIONS).glob("*.json")))
    return [result for result in found if result is not None and "split" in result]


def card(name: str, facts: dict[str, str], scored: list[dict[str, Any]]) -> str:
    """The text of README.md; scores are those of the step that the weights are from."""
    told = [result for result in scored if result.get("step") == int(facts["step"])]
    rows = []
    for result in told:
        metric = headline({key: value for key, value in result.items() if isinstance(value, float)})
        made = ", generated" if result.get("generated") else ""
        rows.append(f"| {result.get('source')}{made} | {result['split']} | {metric} | {100 * result[metric]:.1f} |")
    table = "\n".join(["| set | split | metric | % |", "|---|---|---|---|", *rows]) if rows else ""
    metadata = {
        "library_name": "laconvnet",
        "pipeline_tag": _PIPELINES.get(facts["task"], "image-segmentation"),
        "tags": ["laconvnet", facts["task"], "vision-and-language"],
    }
    header = yaml.safe_dump(metadata, sort_keys=False)
    text = _TEXT.format(task=facts["task"], step=facts["step"], name=name, scores=table)
    return f"---\n{header}---\n{text.rstrip()}\n"


def weights_in(folder: Path) -> Path | None:
    """The file of weights in a folder of this layout, None where it has none."""
    file = folder / WEIGHTS
    return file if file.is_file() else None
