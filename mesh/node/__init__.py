"""A node: its life, what it is made of, and the public way to use it."""
