"""The emoji world as a benchmark.

suites.py      the suites, as `mmada eval` runs them
benchmark.py   questions and drawings with exact answers
natural.py     drawing requests in ordinary English
strangers.py   prompts of a writer who saw neither sentences nor rules
judge.py       a network that looks at drawings; spoil.py makes bad ones for it to refuse
tables.py      result files as tables of a document
"""
