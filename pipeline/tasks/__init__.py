"""The tasks: what each reads, what it is taught by, how it answers and how its field scores it. One file a task."""

from pipeline.tasks.base import Sums, Task
from pipeline.tasks.grec import Grec
from pipeline.tasks.rec import Rec
from pipeline.tasks.res import Res
from pipeline.tasks.vqa import Vqa

# Entailment is a question with three answers.
TASKS: dict[str, type[Task]] = {"rec": Rec, "res": Res, "grec": Grec, "vqa": Vqa, "entailment": Vqa}

__all__ = ["TASKS", "Sums", "Task"]
