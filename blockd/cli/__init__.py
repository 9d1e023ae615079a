"""Command lines: `blockd` runs the daemons, `blockctl` administers a cluster."""
