"""From the manifest to batches: plan, reader, decoder, words."""
