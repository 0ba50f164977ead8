"""The task heads: from stage maps and words to raw predictions. Targets, losses and answers belong to the tasks."""
