"""The emoji world as a benchmark: judge.py looks at drawings, spoil.py makes bad ones for it to refuse."""
