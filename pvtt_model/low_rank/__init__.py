"""Low-rank updates of the frozen transformer, through peft.

layers        one layer's update as tensors, and its delta; what files, releases and models exchange
attach        fresh updates to train, as a LoraSpec asks: LoRA, DoRA, ranks by module
nf4           QLoRA: the frozen base's linear layers in 4 bits
load          updates from a file, refused unless every layer finds its place
merge         folded into the base's weights, and out again to the bit
active        which adapters act, and how strongly: the weighted sum
switch        one adapter after another along the denoising steps
composer      each adapter in a region of its own
"""
