"""What keeps other people's libraries usable beside the versions we install."""
