"""`mirl-serve`: flags, settings reference and demo; light to import, vLLM is loaded by
`mirl_server.vllm`."""
