"""Words everyone shares: types, steps, tables, hashing, random streams, registry, extraction and the sandbox."""
