"""Training of the Markov palette; the fit step needs torch, numpy, Pillow and safetensors alone."""
