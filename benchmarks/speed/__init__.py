"""Times of single jobs beside baselines, and frames a second of devices."""
