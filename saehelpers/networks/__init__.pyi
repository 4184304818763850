from . import (
    activations as activations,
    autoencoders as autoencoders,
    clamping as clamping,
    encoders as encoders,
    feature_maps as feature_maps,
    go as go,
    go_files as go_files,
    language as language,
    modules as modules,
    scaling as scaling,
)
from .activations import (
    at_positions as at_positions,
    chosen_positions as chosen_positions,
    orbit_activations as orbit_activations,
    read_activations as read_activations,
    reading as reading,
    recording_prefix as recording_prefix,
    replaying as replaying,
    splice as splice,
    token_activations as token_activations,
)
from .autoencoders import (
    ARCHITECTURES as ARCHITECTURES,
    UNTRAINED as UNTRAINED,
    Autoencoder as Autoencoder,
    make_autoencoder as make_autoencoder,
)
from .clamping import (
    clamped as clamped,
)
from .encoders import (
    VIT_B_16 as VIT_B_16,
    PretrainedViT as PretrainedViT,
    load_encoder as load_encoder,
    load_pretrained_vit as load_pretrained_vit,
    make_convnext as make_convnext,
)
from .feature_maps import (
    drawn_pixels as drawn_pixels,
    latent_maps as latent_maps,
    leading_tokens as leading_tokens,
    mean_latents as mean_latents,
    neighbourhoods as neighbourhoods,
    orbit_pixels as orbit_pixels,
    to_feature_maps as to_feature_maps,
)
from .go import (
    GoNetwork as GoNetwork,
    GoOpinion as GoOpinion,
    make_go_network as make_go_network,
    read_opinions as read_opinions,
    reconstructing as reconstructing,
    spliced_policy as spliced_policy,
    viewed_opinions as viewed_opinions,
    with_random_weights as with_random_weights,
)
from .go_files import (
    load_go_network as load_go_network,
    named_go_network as named_go_network,
)
from .language import (
    load_pretrained_language_model as load_pretrained_language_model,
    make_gpt2 as make_gpt2,
)
from .modules import (
    evaluation_mode as evaluation_mode,
)
from .scaling import (
    standardisation as standardisation,
)
