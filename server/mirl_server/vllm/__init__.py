"""Everything that imports vllm: plugin, launcher, flags, endpoints, media, tool parsers. Nothing else of
the server does."""
