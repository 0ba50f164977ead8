"""`python -m laconvnet`: the command line where the console script is not installed."""

from laconvnet.launch.cli import entry

if __name__ == "__main__":
    entry()
