"""The kernels: each writes one function of LLVM IR, a loop nest for the shapes that it is given."""
