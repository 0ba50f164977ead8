"""The original file layouts, one module a data set: where its files lie and what stands in them."""
