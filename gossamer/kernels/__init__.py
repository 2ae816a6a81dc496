"""Products with a weight in its packed form, for a few vectors on a processor: what PyTorch has no operation for.

Written token by token, a model applies each weight to one vector. To make the dense weight for that takes several times
as long as the product, most of it to get fresh memory from the system. So its rows are decoded one after another into a
buffer that stays in the processor's nearest cache. Compiled by numba at the first call, and kept on disk from then on.
"""
