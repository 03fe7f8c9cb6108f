"""The demo: a mesh of five processes on this machine, a real file, and a node that is killed on the way."""
