"""DNSMOS P.835 (arXiv 2110.01763): opinion scores that a network predicts, 1 to 5, by the models of `speechmos`."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime
import speechmos
from speechmos import dnsmos

RATE = 16000  # Hz, of the waves it takes
NAMES = {"dnsmos": "ovrl_mos", "dnsmos_signal": "sig_mos", "dnsmos_background": "bak_mos"}


@lru_cache
def _predictor() -> dnsmos.DNSMOS:
    folder = Path(speechmos.__file__).parent / "dnsmos_models"
    paths = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    predictor = dnsmos.DNSMOS(*paths)
    # its own sessions take every core and wait for each other on a busy machine: ten times slower there
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    predictor.onnx_sess, predictor.p808_onnx_sess = (onnxruntime.InferenceSession(path, options) for path in paths)
    return predictor


def predict_opinion(wave: np.ndarray) -> dict[str, float]:
    """`dnsmos` (overall), `dnsmos_signal` and `dnsmos_background` of a wave (samples,) at `RATE`, in [-1, 1].

    Waves under 9 s are repeated to that length, as the published script does.
    """
    scores = _predictor()(np.clip(wave, -1, 1), RATE, is_personalized_MOS=False)
    return {name: float(scores[key]) for name, key in NAMES.items()}
