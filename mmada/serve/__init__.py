"""The OpenAI-compatible server: HTTP -> schema.py -> request_parser.py -> engine.py (generation/engine.py) -> stream.py.

config.py     limits and secrets of one server
schema.py     the bodies that come in, as pydantic models; strict_body.py  fields that are ignored or refused;
              response_schema.py  the bodies that go out
bodies.py     bytes -> JSON or a form, counted before they are parsed
pictures.py   bytes, data: URLs and, if allowed, remote addresses -> images; image_fetcher.py fetches them,
              picture_decoder.py decodes them, in processes that run picture_worker.py
request_parser.py     a body -> engine requests: requests of the package, and how they are to be followed
engine.py     one thread that runs rounds: one denoising step of every request whose turn it is, in one forward pass
stream.py     what of a growing text may be sent, append-only
outputs.py    what one generation sends: orders in, events out
responses.py  outcomes -> bodies and events; refusals.py  errors, in OpenAI's shape
http.py       the application: routes and errors; openapi.py  how they are described; listen.py  the process and its connections
middleware.py  names (hosts.py), keys, origins, sizes of bodies; output_stream.py  a request and who waits for it;
              unread.py  clients that do not read
workers.py    several processes behind one port; board.py  the counts that they share; threads.py  how many threads a pass takes
metrics.py    Prometheus
web/          the studio: static files, at /
"""
