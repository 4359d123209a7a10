"""Images of requests, by data URL or fetched over http(s). May import no other room of the server.

`images` turns a request's URLs into pictures for the routes. `decoding` turns bytes into an upright RGB
picture, `structure` refuses files that would occupy a decoder for long, `fetching` gets bytes from http(s)
URLs, and `rules` (the operator's settings) and `addresses` decide which URLs are allowed.
"""
