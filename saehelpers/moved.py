"""Modules of release 0.1, which importing says where to find.

from saehelpers.metrics import fvu     # ImportError: ... is in saehelpers.evaluation now
"""

import sys

ROOMS = {
    "runs": "distributed progress results sweeps",
    "datasets": "shards",
    "saes": "interchange",
    "saes.sparse": "sparse",
    "networks": "activations base_models feature_maps",
    "evaluation": "attribution consistency ground_truth image_probes language_metrics metrics "
    "probing",
    "training": "end_to_end fitting loss methods objectives revival",
    "experiments": "experiments.explained",
    "figures": "analysis dashboards",
}
MOVED = {f"saehelpers.{old}": room for room, names in ROOMS.items() for old in names.split()}


class MovedModules:
    """The first of the finders that `import` asks: where a package was, its cache may be left."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> None:
        if name in MOVED:
            raise ImportError(f"what was in {name} is in saehelpers.{MOVED[name]} now", name=name)


sys.meta_path.insert(0, MovedModules)
