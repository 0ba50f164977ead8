"""The tasks: what each reads, what it is taught by, how it answers and how its field scores it. One file a task."""

from laconvnet.pipeline.tasks.base import Sums, Task
from laconvnet.pipeline.tasks.grec import Grec
from laconvnet.pipeline.tasks.rec import Rec
from laconvnet.pipeline.tasks.res import Res
from laconvnet.pipeline.tasks.vqa import Vqa

# Entailment is a question with three answers.
TASKS: dict[str, type[Task]] = {"rec": Rec, "res": Res, "grec": Grec, "vqa": Vqa, "entailment": Vqa}

__all__ = ["TASKS", "Sums", "Task"]
