"""oneDNN (uxlfoundation/oneDNN, C API v3) through ctypes: the CPU kernels that it computes faster than NumPy.

    library        the shared library: found, loaded on first use, its prototypes and constants, ownership of what it makes
    primitives     a primitive with its operands as a call on arrays, cached for each thread
    kernels        the kernels of `core.backend.base` in such calls
    passes         what does several things to each element in one pass: a step of Adam, e^(x − m)
    stack          where the stack stands when a kernel begins, which half its speed may hang on
    images         (N, C, *): the order in memory, sums, the rectifier
    convolution    … convolutions, and which way is the faster
    normalisation  … batch normalisation
    pooling        … pooling
    columns        convolutions to few channels, several columns at once
    recurrent      long short-term memory in chunks of steps
    winograd       3×3 convolutions with a quarter of the multiplications
    program        many primitives that run one after another, on buffers that stay in the cache

`core.backend.cpu` decides which arrays come here. The library ships as the wheel `onednn-cpu-gomp`; any other libdnnl.so.3 serves as well,
and without one NumPy answers. Nothing here holds an array beyond a call, but for one scratch arena in each thread.
"""
