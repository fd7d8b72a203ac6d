"""The OpenAI-compatible server: HTTP -> schema.py -> intake.py -> scheduler.py -> engine.py (sampling/loop.py) -> stream.py.

config.py     limits and secrets of one server
schema.py     the bodies that come and go, as pydantic models
pictures.py   bytes, data: URLs and, if allowed, remote addresses -> images; remote.py fetches them
intake.py     a body -> orders: requests of the package, and how they are to be followed
scheduler.py  whose turn it is: plain records, no tensors
engine.py     one thread that runs rounds: one denoising step of every request whose turn it is, in one forward pass
stream.py     what of a growing text may be sent, append-only
replies.py    outcomes -> bodies and events
http.py       the application: routes, errors, and the process; guard.py  keys, origins, sizes of bodies; calls.py  an order and who waits for it
metrics.py    Prometheus
web/          the studio: static files, at /
"""
