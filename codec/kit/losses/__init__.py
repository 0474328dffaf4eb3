"""Losses that frozen networks give: their features, and the eye, compared."""
