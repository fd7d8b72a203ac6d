"""From requests to results: one engine, which the pipeline, the server, reinforcement learning, training's samples and evaluation drive.

requests.py   ChatRequest, DrawRequest, FillRequest; Answer and Drawing; a checkpoint's GenerationConfig
field_types.py  values of records against the types that their fields declare
settings.py   what users may change of a request, each declared once: command line, server and studio derive from it
planner.py    canvases and sampling parameters for requests, results for what was filled; no model
prompt_reader.py  prompts as the checkpoint was taught to read them, and what of them is unknown
lexicon.py    the words that a checkpoint was taught to draw from; speller.py reads misspelled words as these
closest.py    the entry of a list that is spelled most like a word
guide.py      what a world knows of a thought for certain, such as a result: the sampler writes it without asking the model
edits.py      an edit by instruction becomes a request
programs.py   chat, fill, draw: what each kind of request asks for, in order
steps.py      Fill, Rank, Work: what may be asked for; RequestState: what others see meanwhile
scheduler.py  whose turn it is, within budgets; no tensors
engine.py     Engine: add programs, step
"""
