"""Training of the Markov palette: the fit step imports torch, numpy, Pillow and safetensors alone."""
