"""Engines run the model: `base` is their protocol, `vllm`, `remote`, `hf` and `fake` implement it, `wrappers`
go around one, `common` helps; may import `mirl_core.types` and `mirl_core.errors`, and each backend alone its
libraries."""
