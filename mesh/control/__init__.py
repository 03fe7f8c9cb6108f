"""The control endpoint: how other processes of the same user talk to a running node."""
