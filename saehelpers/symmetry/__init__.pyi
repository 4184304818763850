from . import (
    actions as actions,
    fitting as fitting,
    groups as groups,
    inputs as inputs,
    reporting as reporting,
    tables as tables,
)
from .actions import (
    LinearAction as LinearAction,
    canonical_direction as canonical_direction,
    canonicalise as canonicalise,
    check_orbits as check_orbits,
    infer_element as infer_element,
)
from .fitting import (
    FIT_METHODS as FIT_METHODS,
    fit_action as fit_action,
    usual_fit as usual_fit,
)
from .groups import (
    Group as Group,
    given_or_named as given_or_named,
    rotations_and_flips as rotations_and_flips,
)
from .inputs import (
    InputAction as InputAction,
    act_each as act_each,
    action_by_generators as action_by_generators,
    check_input_action as check_input_action,
    image_action as image_action,
    input_action as input_action,
    orbit as orbit,
    restricted_action as restricted_action,
)
from .reporting import (
    report_action as report_action,
    turning_generators as turning_generators,
)
