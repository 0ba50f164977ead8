"""Measurements of the pipeline's rooms."""
