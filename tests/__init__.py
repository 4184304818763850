import os

# kernels for GPUs run here as Triton's interpreter has them, which Triton decides when imported
os.environ["TRITON_INTERPRET"] = "1"
