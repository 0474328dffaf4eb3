"""The cloud server: decodes features, reconstructs pictures, runs the vision tasks."""
