"""Pages to look at a set: some of its samples, and how it is distributed."""
