"""The host daemon: one machine's stores, replicas, engines and exports."""
