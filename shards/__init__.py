"""Raw data sets to webdataset shards and their manifest. Knows nothing of training."""
