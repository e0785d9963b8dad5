"""How a device runs what the methods compute, without changing it: on a processor parts of a batch (`processor`) and
memory that is kept (`kept`), on a GPU recorded graphs (`graphs`), as much at once as fits (`memory`) and the same bits
in every run (`determinism`). It knows tensors and numbers, and nothing else of the package.
"""
