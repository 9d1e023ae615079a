"""Decisions without I/O, clock or chance of their own: facts in, a verdict or a BlockdError out."""
