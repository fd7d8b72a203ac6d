"""From a request to a result, without a model: requests, and the planner that turns them into canvases and results.

requests.py  ChatRequest, DrawRequest, FillRequest; Answer and Drawing; a checkpoint's Defaults
planner.py   a request becomes a canvas with settings; what was filled becomes an answer or a picture
"""
