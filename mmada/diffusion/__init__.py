"""The mathematics of absorbing (masked) diffusion: tensors in, tensors out; no modules, no files.

schedule.py    progress -> share that is masked, and its derivative
transfer.py       share or step count -> how many tokens to commit at each step
noise.py       x0 -> xt and the mask that was drawn
loss.py        the one masked-diffusion loss
likelihood.py  Monte-Carlo estimate of log p(answer | prompt)
"""
