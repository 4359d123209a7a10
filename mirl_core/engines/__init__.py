"""What runs the model. `base` is the contract; `vllm`, `remote`, `hf` and `fake` keep it, `recording` wraps
one."""
