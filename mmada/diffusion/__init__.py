"""The mathematics of absorbing (masked) diffusion: tensors in, tensors out; no modules, no files.

schedule.py    progress -> mask ratio, and its derivative
transfer.py    mask ratio or step count -> number of tokens to commit at each step
noise.py       x0 -> xt and the mask that was drawn
loss.py        the masked-diffusion loss
likelihood.py  Monte-Carlo estimate of log p(answer | prompt)
"""
