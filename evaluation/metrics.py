"""Every figure of the report: what it is called, its unit, and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A figure of an utterance, of which the report has means."""

    title: str
    digits: int
    better: str = ""
    """"lower" or "higher"; empty where neither is"""
    weight: str | None = None
    """The utterance's figure that weights the mean; None: all alike"""


GROUPS: dict[str, dict[str, Metric]] = {
    "Words and naturalness": {
        "cer": Metric("character error rate", 3, "lower", "characters"),
        "wer": Metric("word error rate", 3, "lower", "words"),
        "dnsmos": Metric("DNSMOS overall", 2, "higher"),
        "dnsmos_signal": Metric("DNSMOS signal", 2, "higher"),
        "dnsmos_background": Metric("DNSMOS background", 2, "higher"),
    },
    "Beside the recording (DTW)": {
        "mcd": Metric("mel-cepstral distortion, dB", 2, "lower"),
        "f0_rmse": Metric("F0 RMSE, cents", 0, "lower"),
        "voicing_error": Metric("voicing error", 3, "lower"),
        "duration_ratio": Metric("duration ratio", 3),
    },
    "Copies": {
        "pesq": Metric("PESQ wide-band", 2, "higher"),
        "stoi": Metric("STOI", 3, "higher"),
        "mel_l1": Metric("log-mel L1", 3, "lower"),
    },
    "Delivery": {
        "runaway": Metric("cut off at a bound, share", 3, "lower"),
        "real_time_factor": Metric("seconds per second of audio", 3, "lower"),
        "seconds": Metric("seconds", 2),
        "loudness": Metric("loudness, LUFS", 1),
        "leading_silence": Metric("leading silence, s", 2),
        "trailing_silence": Metric("trailing silence, s", 2),
    },
}
METRICS: dict[str, Metric] = {name: metric for group in GROUPS.values() for name, metric in group.items()}
