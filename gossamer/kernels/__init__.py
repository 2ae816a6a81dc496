"""What PyTorch has no operation for, on a processor: packed weights multiplied and unpacked, strings of codes found.

Written token by token, a model applies each weight to one vector. To make the dense weight for that takes several times
as long as the product, most of it to get fresh memory from the system. So its rows are decoded one after another into a
buffer that stays in the processor's nearest cache. For many vectors the dense weight is made by the same decoding. And
the cheapest string of codes is found by a loop over states, for which there is no operation on whole tensors. Compiled
by numba at the first call, and kept on disk from then on.
"""
