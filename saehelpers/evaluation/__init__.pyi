from . import (
    attribution as attribution,
    blocks as blocks,
    consistency as consistency,
    dependence as dependence,
    effects as effects,
    go_opinions as go_opinions,
    ground_truth as ground_truth,
    inputs as inputs,
    language_metrics as language_metrics,
    latent_cards as latent_cards,
    latent_numbers as latent_numbers,
    logistic as logistic,
    matching as matching,
    metrics as metrics,
    probing as probing,
    statements as statements,
    symmetries as symmetries,
    trust as trust,
    trust_tables as trust_tables,
)
from .attribution import (
    Attention as Attention,
    UpstreamAttribution as UpstreamAttribution,
    attribution_by_source as attribution_by_source,
    check_trained_here as check_trained_here,
    decoder_directions as decoder_directions,
    encoder_directions as encoder_directions,
    head_attribution as head_attribution,
    logit_effects as logit_effects,
    output_projection as output_projection,
    read_attention as read_attention,
    residual_readers as residual_readers,
    source_shares as source_shares,
    upstream_attribution as upstream_attribution,
    written_directions as written_directions,
)
from .blocks import (
    probe_by_block as probe_by_block,
    report_by_block as report_by_block,
)
from .consistency import (
    above_null as above_null,
    frequency_bins as frequency_bins,
    frequent as frequent,
    interval_over_runs as interval_over_runs,
    latent_consistency as latent_consistency,
    linear_cka as linear_cka,
    null_of_activations as null_of_activations,
    null_pw_mcc as null_pw_mcc,
    over_runs as over_runs,
    permutation_p_value as permutation_p_value,
    permuted_pairings as permuted_pairings,
    pw_mcc_matrix as pw_mcc_matrix,
    random_rows as random_rows,
    rsa as rsa,
    shared_fraction as shared_fraction,
    shared_strength as shared_strength,
    subspace_overlap as subspace_overlap,
    svcca as svcca,
)
from .dependence import (
    angle_dependence as angle_dependence,
    correlations as correlations,
)
from .effects import (
    ablation_effects as ablation_effects,
    spliced_fvu as spliced_fvu,
)
from .go_opinions import (
    opinion_changes as opinion_changes,
    view_disagreement as view_disagreement,
)
from .ground_truth import (
    Evaluation as Evaluation,
    evaluate as evaluate,
    initialise_at as initialise_at,
    null_mcc as null_mcc,
)
from .inputs import (
    ProbeInput as ProbeInput,
    all_features as all_features,
    element_accuracy as element_accuracy,
    orbit_averaged as orbit_averaged,
    probe_inputs as probe_inputs,
    with_element as with_element,
)
from .language_metrics import (
    Predictions as Predictions,
    apply_sae as apply_sae,
    check_text as check_text,
    evaluate_spliced as evaluate_spliced,
    generate as generate,
    kl_divergence as kl_divergence,
    logits_of as logits_of,
    nearest_cosine as nearest_cosine,
    next_token_accuracy as next_token_accuracy,
    spliced as spliced,
)
from .latent_cards import (
    cards as cards,
)
from .latent_numbers import (
    card_numbers as card_numbers,
)
from .matching import (
    Pairs as Pairs,
    cosine_matrix as cosine_matrix,
    latent_order as latent_order,
    match as match,
    mean_max_similarity as mean_max_similarity,
    pw_mcc as pw_mcc,
    recovery as recovery,
)
from .metrics import (
    dead_latents as dead_latents,
    detection as detection,
    equivariance_error as equivariance_error,
    explained_variance as explained_variance,
    f1 as f1,
    firing_frequency as firing_frequency,
    frame_recons as frame_recons,
    fvu as fvu,
    invariance_error as invariance_error,
    l0 as l0,
    macro_f1 as macro_f1,
    mse as mse,
    next_token_loss as next_token_loss,
    orbit_closure as orbit_closure,
    orbit_jaccard as orbit_jaccard,
    separating_latents as separating_latents,
    spliced_loss as spliced_loss,
    symmetry_report as symmetry_report,
    symmetry_spectrum as symmetry_spectrum,
)
from .probing import (
    PROBES as PROBES,
    class_probe_f1 as class_probe_f1,
    fit_class_probe as fit_class_probe,
    fit_predict as fit_predict,
    predict_tasks as predict_tasks,
    probe_sweep as probe_sweep,
    probe_tasks as probe_tasks,
    resampled_scores as resampled_scores,
    task_scores as task_scores,
)
from .statements import (
    Estimate as Estimate,
    each_above as each_above,
    interval as interval,
    paired_difference as paired_difference,
    verdict as verdict,
)
from .symmetries import (
    judged as judged,
    smaller_subgroups as smaller_subgroups,
    subgroup_r2 as subgroup_r2,
    subgroups as subgroups,
)
from .trust import (
    NUMBERS as NUMBERS,
    TrustModel as TrustModel,
    calibration_scores as calibration_scores,
    fit_trust as fit_trust,
    leave_one_kind_out as leave_one_kind_out,
    thresholds as thresholds,
    true_latents as true_latents,
    trust_model as trust_model,
)
from .trust_tables import (
    card_table as card_table,
    rule_success as rule_success,
    sae_table as sae_table,
    task_table as task_table,
    verdict_scores as verdict_scores,
    without_each as without_each,
)
