"""Adapters to the disk: the SQLite store and the blob folder, with their in-memory twins."""
