"""The algorithm as functions of values and of the Engine protocol; imports `types`, `config`, `errors` and
`engines.base` only."""
