"""A model's name to a folder or file on the disk."""
