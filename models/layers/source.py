"""What a voice is before the vocal tract shapes it: pulses at the fundamental frequency, and noise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

F0_FLOOR, F0_CEILING = 60.0, 550.0
"""Hz; the range of `prosody.fundamental_frequency`."""
N_BINS = 320
"""12 cents each."""
BLUR = 2.0
"""Standard deviation of a target, in bins (25 cents, as in CREPE, arXiv 1802.06182)."""
NEIGHBOURS = 6
"""Bins on either side of the likeliest that f0 is averaged over."""
SILENT_F0 = 100.0
"""Hz, of the pulses that are not heard before the first voiced frame."""
NOISE_SAMPLES = 2**17


class F0Bins(nn.Module):
    """f0 as classes: unvoiced (0), then bins of equal width in octaves."""

    n_classes = 1 + N_BINS

    def __init__(self):
        super().__init__()
        octaves = torch.linspace(math.log2(F0_FLOOR), math.log2(F0_CEILING), N_BINS)
        self.register_buffer("octaves", octaves, persistent=False)

    def targets(self, f0: Tensor) -> Tensor:
        """f0 in Hz (B, T), 0 where unvoiced -> probabilities of the classes (B, T, n_classes)."""
        width = self.octaves[1] - self.octaves[0]
        distance = (f0.clamp(F0_FLOOR, F0_CEILING).log2().unsqueeze(-1) - self.octaves) / (BLUR * width)
        near = torch.softmax(-0.5 * distance.square(), dim=-1)
        voiced = (f0 > 0).unsqueeze(-1).to(near.dtype)
        return torch.cat([1 - voiced, near * voiced], dim=-1)

    def estimate(self, logits: Tensor) -> Tensor:
        """Logits (B, T, n_classes) -> f0 in Hz (B, T), 0 where unvoiced is likelier than voiced."""
        unvoiced = logits[..., 0] > logits[..., 1:].logsumexp(-1)
        bins = logits[..., 1:].double()  # single precision rounds the last few frames of a clip in another way
        offset = torch.arange(N_BINS, device=logits.device) - bins.argmax(-1, keepdim=True)
        weights = bins.masked_fill(offset.abs() > NEIGHBOURS, -math.inf).softmax(-1)
        return torch.where(unvoiced, 0.0, (weights * self.octaves).sum(-1).exp2().float())


def pulse_train(f0: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """Pulses of unit power, all harmonics of f0 up to half the sample rate in phase: (B, T * hop_length).

    f0 in Hz (B, T) holds at the middle of each hop and is linear between them; silence where it is 0. The phase runs on
    through unvoiced frames, so that a sample depends on no frame later than the next one.
    """
    voiced = ~(f0 == 0)  # what is not a number is heard, too, in all that depends on it
    # the n-th voiced frame stands in slot n, -1 in slot 0: a running maximum, in what ONNX has
    count = voiced.long().cumsum(1)
    places = torch.where(voiced, torch.arange(f0.shape[1], device=f0.device), -1)
    slots = F.pad(torch.full_like(places, -1), (1, 0)).scatter(1, count * voiced, places)
    last_voiced = slots.gather(1, count)
    held = torch.where(last_voiced >= 0, f0.double().gather(1, last_voiced.clamp(min=0)), SILENT_F0)
    frequency, loudness = (between_middles(values, hop_length) for values in (held, voiced.double()))  # (B, samples)
    phase = (frequency / sample_rate).cumsum(1) % 1  # in turns
    n_harmonics = (sample_rate / 2 / frequency).floor()
    # the sum of cos(2 pi k phase) over k = 1 .. n (Dirichlet's kernel); at a pulse's peak it is n
    pi = torch.tensor(torch.pi, dtype=torch.double, device=f0.device)  # as a number, an ONNX file has it in single
    half = torch.sin(pi * phase)
    at_peak = half.abs() < 1e-6
    total = torch.sin((2 * n_harmonics + 1) * pi * phase) / (2 * half.masked_fill(at_peak, 1.0)) - 0.5
    pulses = torch.where(at_peak, n_harmonics, total) * (2 / n_harmonics).sqrt()
    return (pulses * loudness).float()


def between_middles(values: Tensor, hop_length: int) -> Tensor:
    """(B, T), each at the middle of a hop -> (B, T * hop_length), linear between them, constant beyond the ends."""
    places = (torch.arange(hop_length, device=values.device, dtype=values.dtype) + 0.5) / hop_length - 0.5
    padded = F.pad(values.unsqueeze(1), (1, 1), mode="replicate").transpose(1, 2)  # (B, T + 2, 1)
    before, own, after = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    neighbour = torch.where(places < 0, before, after)  # (B, T, hop_length)
    return (own + (neighbour - own) * places.abs()).flatten(1)


class Excitation(nn.Module):
    """Spectra of pulses and of noise, framed as the mel is.

    The noise is the same for the same place in a clip, so that speech is repeatable and does not depend on its batch;
    training draws other places.
    """

    def __init__(self, n_fft: int, hop_length: int, win_length: int, sample_rate: int):
        super().__init__()
        self.n_fft, self.hop_length, self.sample_rate = n_fft, hop_length, sample_rate
        noise = torch.randn(NOISE_SAMPLES, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)

    def forward(self, f0: Tensor) -> tuple[Tensor, Tensor]:
        """f0 in Hz (B, T), 0 where unvoiced -> spectra of pulses and of noise, complex (B, n_fft / 2 + 1, T)."""
        B, T = f0.shape
        hop, n_fft = self.hop_length, self.n_fft
        # the frames at the ends look beyond them
        beyond = math.ceil(n_fft / (2 * hop))
        first = F.pad(f0.unsqueeze(1), (beyond, beyond), mode="replicate").squeeze(1)
        pulses = pulse_train(first, hop, self.sample_rate)  # (B, (T + 2 beyond) hop)
        start = torch.randint(NOISE_SAMPLES, (B, 1), device=f0.device) if self.training else 0
        places = start + torch.arange(pulses.shape[1], device=f0.device).expand(B, -1)
        begin = beyond * hop + hop // 2 - n_fft // 2
        end = begin + (T - 1) * hop + n_fft
        spectra = [
            torch.stft(wave[:, begin:end], n_fft, hop, len(self.window), self.window, center=False, return_complex=True)
            for wave in (pulses, self.noise[places % NOISE_SAMPLES])
        ]
        return spectra[0], spectra[1]
