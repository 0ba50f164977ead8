"""The command line, the stage graph and the ways to run it."""
