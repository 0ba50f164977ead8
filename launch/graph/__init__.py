"""The stage graph: a YAML file in, stages in the order they can run out."""
