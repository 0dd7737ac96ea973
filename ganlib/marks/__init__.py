"""An invisible mark that says that an image is synthetic: put into the pixels (`pixels`), found again with a p-value (`detection`)."""
