"""Files and other tools' contracts: what lies in a checkpoint directory, and the classes that transformers knows.

checkpoint.py        a directory, a built-in name or a hub name becomes a path; headers are read and compared before weights
family.py            which family the files of a directory are of, and whether they are as the family has them
weights.py           tensors, read and written one by one
networks.py          the transformer and the image tokenizer of a directory, and back into one
text_tokenizer.py    a text tokenizer as the `tokenizers` library runs it
tokenizer.py         that of a checkpoint, checked against its vocabulary; small ones made anew
processor_config.py  what AutoProcessor is to find
chat_template.py     how a checkpoint is spoken to, for AutoTokenizer
adapters.py          adapters, and the base that they name

For transformers, which nothing above needs:

configs.py     the configurations            pretrained.py  the networks as PreTrainedModel
processor.py   image processor, processor    auto.py        makes them known to the Auto classes
labels.py      labels as a loss              collator.py    batches for Trainer
generate.py    the sampler behind `generate` call_arguments.py  what a call may ask for
stop_strings.py  strings that end an answer
"""
