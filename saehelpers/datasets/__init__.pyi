from . import (
    augmentation as augmentation,
    galaxies as galaxies,
    go as go,
    images as images,
    shapes as shapes,
    shards as shards,
    synthetic as synthetic,
    text as text,
    toy as toy,
)
from .augmentation import (
    augment as augment,
)
from .images import (
    ImageSet as ImageSet,
    load_image_folder as load_image_folder,
    split as split,
)
from .shapes import (
    N_HELD_OUT as N_HELD_OUT,
    SHAPE_GROUPS as SHAPE_GROUPS,
    SHAPES as SHAPES,
    SPLITS as SPLITS,
    TASK_TYPES as TASK_TYPES,
    ProbeSamples as ProbeSamples,
    ShapesData as ShapesData,
    draw_templates as draw_templates,
    element_ceiling as element_ceiling,
    list_tasks as list_tasks,
    make_shapes as make_shapes,
    orientations as orientations,
    probe_samples as probe_samples,
    quadrant_sources as quadrant_sources,
    share_unseen as share_unseen,
    split_shapes as split_shapes,
    task_labels as task_labels,
)
from .shards import (
    ShardStream as ShardStream,
    map_activations as map_activations,
    map_shards as map_shards,
    write_shards as write_shards,
)
from .text import (
    documentation as documentation,
    held_out as held_out,
    read_documents as read_documents,
    repeated_tokens as repeated_tokens,
    stream_documents as stream_documents,
    token_blocks as token_blocks,
    train_tokeniser as train_tokeniser,
)
from .toy import (
    ToyData as ToyData,
    make_action as make_action,
    make_toy as make_toy,
)
