"""The fit step. Imports only torch and numpy, so that it runs on a bare accelerator machine."""
