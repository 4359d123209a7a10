"""Images out of requests.

`images` is what the routes use: a request's URLs in, pictures out. Below it `decoding` turns bytes into an
upright RGB picture, `structure` refuses files that would keep a decoder busy, `fetching` gets bytes from
http(s) URLs, and `rules` (the operator's settings) and `addresses` say from where.
"""
