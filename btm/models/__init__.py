"""Models of `transformers`, their weights on disk, and averages of parameters.

Models are those of `transformers`: `AutoModelForCausalLM` trains, `save_pretrained` writes, and
anybody loads the result with no code of ours. Never remote code, never pickle.

`weights` reads and writes safetensors in chunks with numpy alone, so an average needs constant
memory and no torch. A branch begins as sums in float64: the closed form rounded once, so the
average of copies is the copy, bit for bit. Averages that are deployed are summed in float32, unless
`average.accumulate=float64` asks for the same (docs/averaging.md has what that costs).

`blockwise` is the one codec in 8 bits: for an optimizer's moments, and for an ELM shipped as a
difference from its parents. It has the blocks and codebooks of bitsandbytes, in numpy.

`causal_lm.pick_precision` takes bfloat16 only where the hardware multiplies it natively: emulated
on an AVX2 machine it ran at a twelfth of float32's speed.
"""
