import pytest
from conftest import tiny_config

from config import parse_config
from vocoder_step import vocoder_loss_weights

ALWAYS = {"mel", "stft", "adversarial", "feature_matching"}


@pytest.mark.parametrize(("kind", "conditioning", "joint", "more"), [
    ("multiband_istft", "mel", False, {"subband_stft"}), ("vocos", "mel", False, set()),
    ("harmonic_vocos", "codes", False, {"f0", "decoder_mel"}), ("vocos", "hidden", True, {"decoder_mel", "llm"}),
])
def test_weights_are_of_the_losses_that_there_are(kind, conditioning, joint, more):
    values = tiny_config(vocoder={"kind": kind}, train__vocoder={"conditioning": conditioning, "joint": joint})
    config = parse_config(values, "test")
    weights = vocoder_loss_weights(config)
    assert weights.keys() == ALWAYS | more
    assert weights["mel"] == 45.0
