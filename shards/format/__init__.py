"""What a set is: the record of a sample, the tar files, the tables, the manifest."""
