"""What a lighter KV cache or smaller pictures change on the bundled models: MI, choices, accuracy, memory."""
