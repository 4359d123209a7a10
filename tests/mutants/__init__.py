"""Mutation testing with mutmut: `groups.toml` lists the mutated code, `equivalent.toml` the exceptions."""
