"""The commands, a file a group: each adds its parsers and calls the room that does the work."""
