"""The plain values that every other part speaks of. This room imports no other."""
