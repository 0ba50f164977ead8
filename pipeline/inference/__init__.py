"""A trained model at work: evaluation, prediction, export; and weights of the authors' released code."""
