"""What an eye loses: colours that turn, letters that are no longer read, crops at equal bytes."""
