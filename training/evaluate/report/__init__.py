"""Reports: measurements as tables, what curves say, pages and plots."""
