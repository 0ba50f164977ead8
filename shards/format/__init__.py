"""The format of a set: the record of a sample, the tar files, the tables, the manifest."""
