"""The JSON API and the pages, one file a room."""
