from . import (
    analysis as analysis,
    attention_heads as attention_heads,
    boards as boards,
    claims as claims,
    dashboards as dashboards,
    end_to_end as end_to_end,
    galaxies as galaxies,
    go_results as go_results,
    names as names,
    orbits as orbits,
    plots as plots,
    probing as probing,
    synthetic as synthetic,
    tries as tries,
    trust_results as trust_results,
    universality as universality,
)
from .analysis import (
    CELL as CELL,
    EQUIVARIANT as EQUIVARIANT,
    GIVEN as GIVEN,
    above_baseline as above_baseline,
    advantage as advantage,
    at as at,
    at_every as at_every,
    base_models_of as base_models_of,
    beside_published as beside_published,
    conditions as conditions,
    mean_f1 as mean_f1,
    of_width as of_width,
    ordering as ordering,
    over_task_types as over_task_types,
    rank_correlation as rank_correlation,
    recons_of as recons_of,
    resampled_f1 as resampled_f1,
    what_is_there as what_is_there,
)
from .attention_heads import (
    attention_by_source as attention_by_source,
    induction_shares as induction_shares,
    likeness_of_heads as likeness_of_heads,
    read_by_head as read_by_head,
)
from .boards import (
    board_images as board_images,
    boards_by_view as boards_by_view,
    draw_board as draw_board,
    strongest_boards as strongest_boards,
)
from .claims import (
    claims_of as claims_of,
    differences_between as differences_between,
)
from .dashboards import (
    attention_dashboard as attention_dashboard,
    image_dashboard as image_dashboard,
    show as show,
    text_dashboard as text_dashboard,
)
from .end_to_end import (
    answers_by_sparsity as answers_by_sparsity,
    coloured_tokens as coloured_tokens,
    cost_by_sparsity as cost_by_sparsity,
    dictionary_map as dictionary_map,
    learning_curves as learning_curves,
    unexplained_by_layer as unexplained_by_layer,
)
from .galaxies import (
    bars_in_panels as bars_in_panels,
    channel_under_group as channel_under_group,
    examples_of_classes as examples_of_classes,
    images_beside as images_beside,
    latents_by_angle as latents_by_angle,
    latents_on_images as latents_on_images,
    property_histograms as property_histograms,
)
from .go_results import (
    explained_by_block as explained_by_block,
    go_difference as go_difference,
    go_values as go_values,
    go_verdict as go_verdict,
    in_words as in_words,
    of_go_size as of_go_size,
    on_tasks_that_count as on_tasks_that_count,
    over_blocks as over_blocks,
    own_frame_fvu as own_frame_fvu,
    points_with_intervals as points_with_intervals,
    tasks_that_count as tasks_that_count,
    untold_recons as untold_recons,
)
from .names import (
    colour as colour,
    label as label,
)
from .orbits import (
    bars_by_metric as bars_by_metric,
    by_orbit_size as by_orbit_size,
    decoded_changes as decoded_changes,
    dictionary_in_orbits as dictionary_in_orbits,
    eigenvalues as eigenvalues,
    error_by_frame as error_by_frame,
    over_orbit as over_orbit,
)
from .plots import (
    curves as curves,
    dots as dots,
    explained_by_directions as explained_by_directions,
    grouped_bars as grouped_bars,
    grouped_points as grouped_points,
    image_grid as image_grid,
    legend_below as legend_below,
    log_ticks as log_ticks,
    means_and_intervals as means_and_intervals,
    overlay as overlay,
    panels as panels,
    seeds_note as seeds_note,
    similarities as similarities,
    summarise as summarise,
)
from .probing import (
    advantage_bars as advantage_bars,
    class_f1_by_truncation as class_f1_by_truncation,
    control_dots as control_dots,
    f1_by_size as f1_by_size,
    f1_by_task_type as f1_by_task_type,
    f1_by_truncation as f1_by_truncation,
    f1_of_two_probes as f1_of_two_probes,
    gains_beside_published as gains_beside_published,
)
from .synthetic import (
    bars_by_case as bars_by_case,
    benchmark_scores as benchmark_scores,
    cosine_panels as cosine_panels,
    firing_by_world as firing_by_world,
    scores_by_topk as scores_by_topk,
    scores_by_world as scores_by_world,
)
from .tries import (
    points_by_try as points_by_try,
)
from .trust_results import (
    card_points as card_points,
    kept_promises as kept_promises,
    reliability as reliability,
    subgroup_curves as subgroup_curves,
    true_by_verdict as true_by_verdict,
)
from .universality import (
    agreement_and_nulls as agreement_and_nulls,
    agreement_by_activation as agreement_by_activation,
    agreement_by_width as agreement_by_width,
    pw_mcc_image as pw_mcc_image,
    recovery_by_consistency as recovery_by_consistency,
    similarity_bars as similarity_bars,
)
