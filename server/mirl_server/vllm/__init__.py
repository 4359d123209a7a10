"""The one vLLM boundary of the server: launcher, flags, plugin, endpoints, media and tool parsers.

May import everything in `mirl_server`; outside it only the command line imports it, when a server starts.
"""
