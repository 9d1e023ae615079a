"""Settings of the daemons: TOML files, environment and flags, checked before anything starts."""
