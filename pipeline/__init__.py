"""Model, data, tasks, training and evaluation."""
