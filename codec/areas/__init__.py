"""Parts of a picture: regions of interest, and boxes around what has changed."""
