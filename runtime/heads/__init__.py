"""Ways to read a look, one file each."""
