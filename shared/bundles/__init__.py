"""The bundles that come with Featherwire, a folder each; `picture` is the default."""
