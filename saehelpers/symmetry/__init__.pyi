from . import actions as actions, groups as groups
from .actions import (
    LinearAction as LinearAction,
    canonical_direction as canonical_direction,
    canonicalise as canonicalise,
    check_orbits as check_orbits,
    fit_action as fit_action,
    infer_element as infer_element,
    report_action as report_action,
    usual_fit as usual_fit,
)
from .groups import (
    Group as Group,
)
