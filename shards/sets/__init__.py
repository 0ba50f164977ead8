"""What is done with built sets: told, checked, held apart, put together."""
