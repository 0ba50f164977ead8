"""The page on which a trained model is asked: a server on this machine, and what a browser shows of it."""
