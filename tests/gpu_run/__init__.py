"""One run of all that needs a GPU, on a machine that is there for a few minutes and holds little but PyTorch.

`runner` gives each part its time and keeps what it told, `parts` says which parts there are, `summary` what it came to;
`smoke`, `step`, `launches` and `small` are what the parts run beside the commands of `laconvnet` and the tests.
"""
