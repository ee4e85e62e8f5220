"""One page per recipe, and the command line."""
