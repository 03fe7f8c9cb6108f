"""What decides: pure functions and sans-I/O state machines.

Nothing here awaits, reads a clock, draws a random number, opens a file or a socket. Time and
randomness come in as arguments; what should happen goes out as return values.
"""
