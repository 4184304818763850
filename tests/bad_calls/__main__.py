import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # which huggingface_hub reads when it is imported

from .table import every_outcome

json.dump(every_outcome(), sys.stdout)
