import os

import torch

# kernels for GPUs run as Triton's interpreter has them where there is no GPU, which Triton decides
# when it is imported
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
