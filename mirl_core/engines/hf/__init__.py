"""Plain transformers, the reference for numerical comparisons; imports torch, transformers and
`engines.common`."""
