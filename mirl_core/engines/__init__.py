"""What runs the model. `base` is the contract; `vllm`, `hf` and `fake` keep it; `recording` wraps one."""
