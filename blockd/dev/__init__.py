"""The development cluster: real processes of blockd on this machine's loopback addresses."""
