"""A config's networks with random weights, for one speaker and one language; nothing is read."""

from torch import nn

from config import Config, MelCodecConfig
from models import MelToWave, build_aligned_tts, build_token_lm, build_wave_generator, codec_data, require_codes
from models.aligned_tts import AlignedTTS
from models.codec import MelCodec
from models.discriminators import build_discriminators
from models.token_lm import TokenLM
from text import build_frontend


def systems_of(config: Config) -> set[str]:
    """Which systems a config is of: "aligned" if it has that section, "tokens" if it has `codec` or `llm`, or not
    `aligned`. A section that a config leaves out has its defaults, but nobody trains them."""
    given = config.model_fields_set
    return {"aligned"} & given | ({"tokens"} if {"codec", "llm"} & given or "aligned" not in given else set())


def codec_sizes(config: Config) -> dict:
    """n_codebooks, codebook_size and frame_rate of the config's codec; EnCodec's weights are not needed for it.

    ValueError for a codec without codes, which no language model over codes can use.
    """
    require_codes(config)
    if isinstance(config.codec, MelCodecConfig):
        return codec_data(build_codec(config))
    codec = config.codec
    return {"n_codebooks": codec.n_codebooks, "codebook_size": codec.codebook_size, "frame_rate": codec.frame_rate}


def build_codec(config: Config) -> MelCodec:
    """The codec of a config whose codec is of kind mel."""
    return MelCodec(config.codec, config.audio, n_speakers=1)


def chain_sizes(config: Config) -> dict:
    """What checkpoints say of the sizes of networks: symbols, codec, speakers and languages."""
    symbols = build_frontend(config.text.model_copy(update={"lexicon": None})).symbols
    return {"text": {"symbols": symbols}, "codec": codec_sizes(config), "speakers": [""], "languages": [""]}


def build_lm(config: Config) -> TokenLM:
    """The language model of `train_llm.py`, without pretrained weights."""
    return build_token_lm(config, chain_sizes(config))


def build_aligned(config: Config) -> AlignedTTS:
    """The aligned-duration model of `train_aligned.py`."""
    symbols = build_frontend(config.text.model_copy(update={"lexicon": None})).symbols
    return build_aligned_tts(config, {"text": {"symbols": symbols}, "speakers": [""], "languages": [""]})


def build_decoder_and_vocoder(config: Config) -> tuple[nn.Module | None, nn.Module]:
    """What synthesis makes waves with from codes or hidden states; no decoder where the config trains none (EnCodec,
    and a vocoder trained on mel)."""
    generator = build_wave_generator(config, chain_sizes(config))
    if not isinstance(generator, MelToWave):
        return generator.decoder, generator.vocoder
    return build_codec(config).decoder if isinstance(config.codec, MelCodecConfig) else None, generator.vocoder


def count_parameters(config: Config) -> dict[str, int]:
    """Parameters of every network that is trained; a codec of kind mel contains the decoder."""
    systems, networks = systems_of(config), {}
    decoder, vocoder = build_decoder_and_vocoder(config)
    if "tokens" in systems:
        networks["codec"] = build_codec(config) if isinstance(config.codec, MelCodecConfig) else None
        networks |= {"llm": build_lm(config), "decoder": decoder}
    if "aligned" in systems:
        networks["aligned"] = build_aligned(config)
    networks |= {"vocoder": vocoder, "discriminators": build_discriminators(config.discriminators)}
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items() if net is not None}
