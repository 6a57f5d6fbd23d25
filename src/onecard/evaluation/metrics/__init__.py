"""Metrics of single items: text against a reference, rankings, speech.

Each returns one number an item, so that stats can resample and pair the items.
"""
