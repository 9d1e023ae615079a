"""How processes of blockd talk: generated stubs (gen/), channels, servers, deadlines, errors."""
