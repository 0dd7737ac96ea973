"""Images from their sources to memory-mapped Arrow, and from Arrow to training shards."""
