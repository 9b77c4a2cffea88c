"""The providers, one private file each; loaded by name, only when chosen."""
