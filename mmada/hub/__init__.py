"""Files and other tools' contracts: what lies in a checkpoint directory, and the classes that transformers knows.

checkpoint.py  a directory, a built-in name or a hub name becomes a path; headers are read and compared before weights
tokenizer.py   the text tokenizer of a checkpoint, checked against its vocabulary; small ones made anew
processor.py   transformers' image processor and processor
auto.py        makes the classes known to transformers' Auto classes
"""
