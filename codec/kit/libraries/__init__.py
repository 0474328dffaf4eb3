"""Other people's libraries, kept usable beside the versions that we install."""
