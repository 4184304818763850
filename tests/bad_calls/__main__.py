import json
import sys

from .table import every_outcome

json.dump(every_outcome(), sys.stdout)
