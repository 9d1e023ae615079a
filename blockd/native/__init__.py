"""The border between Python and the native core: checksums (checksum) and the data plane (core)."""
