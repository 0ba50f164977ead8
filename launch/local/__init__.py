"""Stages on this machine."""
