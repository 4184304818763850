from . import (
    analysis as analysis,
    boards as boards,
    dashboards as dashboards,
    go_results as go_results,
    names as names,
    plots as plots,
    trust_results as trust_results,
)
from .analysis import (
    CELL as CELL,
    EQUIVARIANT as EQUIVARIANT,
    GIVEN as GIVEN,
    above_baseline as above_baseline,
    advantage as advantage,
    at as at,
    at_every as at_every,
    beside_published as beside_published,
    conditions as conditions,
    mean_f1 as mean_f1,
    of_width as of_width,
    ordering as ordering,
    over_task_types as over_task_types,
    rank_correlation as rank_correlation,
    resampled_f1 as resampled_f1,
    what_is_there as what_is_there,
)
from .boards import (
    board_images as board_images,
    draw_board as draw_board,
)
from .dashboards import (
    attention_dashboard as attention_dashboard,
    image_dashboard as image_dashboard,
    show as show,
    text_dashboard as text_dashboard,
)
from .go_results import (
    go_verdict as go_verdict,
    over_blocks as over_blocks,
    own_frame_fvu as own_frame_fvu,
    points_with_intervals as points_with_intervals,
    tasks_that_count as tasks_that_count,
)
from .names import (
    colour as colour,
    label as label,
)
from .plots import (
    curves as curves,
    dots as dots,
    grouped_bars as grouped_bars,
    grouped_points as grouped_points,
    image_grid as image_grid,
    legend_below as legend_below,
    log_ticks as log_ticks,
    overlay as overlay,
    panels as panels,
    seeds_note as seeds_note,
    similarities as similarities,
    summarise as summarise,
)
from .trust_results import (
    card_points as card_points,
    kept_promises as kept_promises,
    reliability as reliability,
    subgroup_curves as subgroup_curves,
)
