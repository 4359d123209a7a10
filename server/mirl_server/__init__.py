"""The server: MIRL's routes as a vLLM endpoint plugin, and `mirl-serve`, which runs vLLM's server with them.

- `cli`: the command `mirl-serve`, its flags, the settings reference and the demo.
- `settings`: the operator's settings, from flags, the environment and a YAML file.
- `vllm`: the one vLLM boundary. No other module of the server imports vllm; import-linter holds this.
- `middleware`: pure ASGI layers before every route; `http`: connections, bodies and error responses.
- `access`: API keys, authentication and quotas.
- `apis`: a folder for each API with its route, its reading and its writing.
- `handling`: the work of a request, the same for all APIs.
- `media`: images of requests, by data URL or fetched.
- `observability`: logs, metrics and traces.

Every room but `vllm` can be imported where vLLM is not installed.
"""
