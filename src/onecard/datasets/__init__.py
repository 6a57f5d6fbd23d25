"""Readers of files and rows; their errors name file and line."""
