"""Restoring parameters to their pre-trained values: in memory, and from folder to folder."""
