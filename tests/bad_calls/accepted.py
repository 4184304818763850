"""What is taken though it was changed, or is told less clearly, and why that is right.

By "argument: what was put in its place", anywhere, or "room.name argument: ..." of one name.
"""

ACCEPTED = {
    "below every frequency: none is left out": ("evaluation.frequent smallest: -1",),
    "its shape alone counts": (
        "evaluation.random_rows like: NaN", "evaluation.random_rows like: inf",
        "evaluation.null_pw_mcc a: NaN", "evaluation.null_pw_mcc a: inf",
        "evaluation.null_pw_mcc b: NaN", "evaluation.null_pw_mcc b: inf",
    ),
    "0 is a number of this kind like others": (
        "seed: 0", "auxk: 0", "experiments.BaseModelRun epochs: 0",
        "experiments.shapes_base_run epochs: 0", "done: 0", "element: 0", "elements: 0",
        "first: 0", "second: 0",
        "start: 0", "layer: 0", "channel: 0", "example: 0", "t: 0", "warmup_steps: 0",
        "sparsity_warmup_steps: 0", "runs.seconds_each pause: 0", "runs.seconds_each pause: 2.5",
        "datasets.synthetic.make_features steps: 0",
        "datasets.synthetic.near_orthogonal steps: 0",
        "datasets.synthetic.World orthogonalisation_steps: 0",
        "datasets.synthetic.World correlation_rank: 0",
    ),
    "any number is one of this kind": (
        "datasets.synthetic.FoldedNormal mean: -1",
        "datasets.synthetic.HierarchyConfig branching: number", "evaluation.TrustModel bias: -1",
    ),
    "None stands for what the docstring says": (
        "act: None", "action: None", "cards: None", "dictionary: None", "effects: None",
        "epochs: None",
        "executor: None", "generator: None", "group: None", "heads: None", "labels: None",
        "n_blocks: None", "order: None", "origin: None", "period: None", "pixels_per_image: None",
        "truncation: None", "validation: None", "stop: None", "experiments.Given pictures: None",
    ),
    "a label for people, or of one's own: any text": (
        "name: misspelt", "label: misspelt", "label: empty", "description: misspelt",
        "description: empty", "title: misspelt", "title: empty", "kind: misspelt", "kind: empty",
        "home: misspelt", "home: empty", "what: misspelt", "what: empty", "why: misspelt",
        "why: empty", "source: misspelt", "source: empty", "rows: misspelt", "columns: misspelt",
        "columns: empty", "figures.similarities rows: empty", "stream: misspelt", "stream: empty",
        "evaluation.ProbeInput element: misspelt",
        "evaluation.TrustModel fitted_to: items of another kind",
        "figures.curves marker: empty",
    ),
    "an identity, or a name, that is compared when the run is made": (
        "activations: misspelt", "activations: empty", "base_model: misspelt", "data: misspelt",
        "base_model: empty", "data: empty", "encoder: empty", "text: empty",
        "encoder: misspelt", "images: misspelt", "images: empty", "text: misspelt",
        "start: misspelt", "start: empty", "group: misspelt", "architecture: misspelt",
        "experiments.PixelsRun layer: misspelt", "experiments.PixelsRun act: misspelt",
        "experiments.PixelsRun act: empty", "training.EndToEndRun module: misspelt",
        "of: misspelt", "of: empty",
    ),
    "nothing is asked for, and nothing is done": (
        "runs.check_parameters may_be_empty: empty",
        "datasets.synthetic.superposition percentiles: empty",
        "datasets.ImageSet classes: empty", "column_titles: empty", "configs: empty",
        "downstream: empty", "generators: empty",
        "jobs: empty", "evaluation.written_directions latents: empty",
        "evaluation.decoder_directions latents: empty",
        "evaluation.encoder_directions latents: empty",
        "evaluation.logit_effects written: empty",
        "evaluation.paired_difference by: empty", "evaluation.each_above by: empty",
        "evaluation.card_numbers others: empty", "evaluation.cards others: empty",
        "later: empty", "methods: empty", "modifiers: empty", "modules: empty",
        "runs.local_folder names: empty", "order: empty", "positions: empty", "prefixes: empty",
        "row_titles: empty", "runs.append rows: empty", "seeds: empty", "sources: empty",
        "starts: empty", "subfolder: empty", "suffixes: empty", "times: empty", "topks: empty",
        "values: empty", "wanted: empty", "runs.joined tensors: empty", "vectors: empty",
        "saes.SAE.encode x: empty", "runs.derived arguments: empty", "runs.own_part batch: empty",
        "runs.part stop: 0",
    ),
    "the name of a whole model is empty": ("module: empty",),
    "axes in front are samples": (
        "vectors: axis fewer", "vectors: axis more", "x: axis more", "x: axis fewer",
        "logits: axis more", "latents: axis more", "latents: axis fewer",
        "activations: axis more", "runs.derived arguments: axis fewer",
        "runs.derived arguments: axis more", "runs.own_part batch: axis fewer",
        "runs.own_part batch: axis more", "tensor: axis fewer", "tensor: axis more",
        "runs.identified value: axis fewer", "runs.identified value: axis more",
    ),
    "inputs are of any kind; which, the model or the action says": (
        "inputs: axis fewer", "inputs: axis more", "images: axis fewer", "images: axis more",
    ),
    "tensors are passed on as they are": (
        "runs.derived arguments: NaN", "runs.derived arguments: inf", "runs.own_part batch: NaN",
        "runs.own_part batch: inf", "runs.joined tensors: NaN", "runs.joined tensors: inf",
    ),
    "anything can be told by its identity": (
        "value: -1", "value: 0", "value: 2.5", "value: text", "value: NaN", "value: None",
        "value: number", "cause: -1", "cause: 0", "cause: 2.5", "cause: text", "cause: NaN",
        "cause: None", "measure: text", "measure: number", "measure: None", "data: -1", "data: 0",
        "data: 2.5", "data: text", "data: NaN", "data: None",
    ),
    "for who adds to the package: said when it is used": (
        "default: -1", "default: 0", "default: 2.5", "default: text", "default: NaN",
        "default: None", "thing: text", "thing: number", "thing: None", "value_of: text",
        "value_of: number", "value_of: None", "built_in: items of another kind",
        "runs.Registry.adding name: empty", "training.Objective name: empty",
        "saes.dictionary name: empty", "saes.activation name: empty",
        "training.objective name: empty", 
        "runs.listed values: items of another kind", "runs.local_folder subfolder: misspelt",
    ),
    "a table of any columns": (
        "features: misspelt columns", "history: misspelt columns",
        "figures.attention_by_source attended: misspelt columns",
        "figures.read_by_head shares: misspelt columns",
        "evaluation.Evaluation latents: misspelt columns", "labels: misspelt columns",
    ),
    "classes are any whole numbers": (
        "evaluation.fit_class_probe labels: negative", "trained_on: negative", "truth: negative",
    ),
    "a difference may be more than any number": (
        "more_than: -1", "more_than: 0", "more_than: 2.5", "margin: -1",
    ),
    "komi may be black's": (
        "datasets.go.area_scores komi: -1", "datasets.go.play_games komi: -1",
        "datasets.go.load_or_play_games komi: -1",
    ),
    "where there was no move, or a pass, none is marked": (
        "figures.board_images last: negative", "figures.strongest_boards last: negative",
        "figures.boards_by_view last: -1", "figures.boards_by_view last: 0",
        "figures.draw_board last: -1", "figures.draw_board last: 0",
        "figures.draw_board last: None", "figures.draw_board chances: None",
    ),
    "a score may be negative": (
        "evaluation.judged least: -1", "figures.subgroup_curves least: -1", "observed: -1",
        "null: -1", "threshold: -1",
    ),
    "max(0, mean + std e): such a feature adds nothing": ("magnitude_mean: -1",),
    "no such rows, no cells: as of a baseline that was not measured": (
        "baseline: misspelt", "baseline: empty",
    ),
}  # fmt: skip
UNCLEAR = {
    "what the model says of inputs that it does not take": (
        "networks.orbit_activations inputs: axis more",
        "networks.read_activations inputs: axis more",
        "evaluation.spliced_loss inputs: axis more",
        "evaluation.ablation_effects inputs: axis more", "evaluation.spliced_fvu inputs: axis more",
    ),
    "the first of its arguments is called `function`, further ones are those of that function": (
        "runs.derived arguments: text", "runs.derived arguments: number",
        "runs.derived arguments: None", "runs.derived arguments: list",
    ),
    "names the place or the value, and what may stand there": (
        "runs.read_config classes: empty", "saes.load_sae_lens subfolder: misspelt",
        "networks.load_encoder source: misspelt", "experiments.galaxy_encoder source: misspelt",
        "experiments.prepare_pixel_subject layer: misspelt", "experiments.load subfolder: misspelt",
        "experiments.prepare_given layer: misspelt",
        "experiments.load action: text", "experiments.push_to_hub thing: text",
        "experiments.push_to_hub repo_id: misspelt", "experiments.push_to_hub subfolder: misspelt",
        "experiments.push_to_hub subfolder: empty",
        "symmetry.LinearAction.from_state identifier: misspelt",
        "symmetry.LinearAction.from_state identifier: empty",
        "runs.Registry.check name: number", "runs.Registry.check name: None",
        "runs.Registry.check name: misspelt", "runs.Registry.check name: empty",
        "runs.Registry.identity name: number", "runs.Registry.identity name: None",
        "runs.Registry.identity name: misspelt", "runs.Registry.identity name: empty",
    ),
    "(n, d) is taken for activations without a group: the validation does not fit then": (
        "training.train_sae x: axis fewer",
    ),
}  # fmt: skip


def known(table: dict[str, tuple[str, ...]], name: str, argument: str, bad: str) -> str | None:
    """The entry of a table that is about this call, if there is one."""
    entries = {entry for group in table.values() for entry in group}
    of_call = f"{argument}: {bad}"
    return next((e for e in (f"{name} {of_call}", of_call) if e in entries), None)
