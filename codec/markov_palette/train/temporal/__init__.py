"""How the networks of predicted frames are fitted: sequences, transitions, fits."""
