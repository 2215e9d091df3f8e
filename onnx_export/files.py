"""Graphs -> ONNX files that give what PyTorch gives, and `onnx.json`, which a program without PyTorch reads."""

import hashlib
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from models.aligned_tts import PROSODY_LIMITS
from models.layers.mel_decoders import FlowDecoder
from models.layers.sampling import Sampling
from onnx_export.graphs import Graph, graphs_of
from onnx_runner.folder import FORMAT, ONNX_FILE, VERSION
from synthesis.aligned_system import MAX_SYMBOLS, AlignedSystem
from synthesis.synthesizer import SEED_STEP
from synthesis.token_system import BOUND_FRAMES_SECONDS, BOUND_MARGIN, TokenSystem
from voice_folder import read_model

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Of features, log-mel, logits and samples (full scale is 1): two ways of rounding, whose phases run apart."""
SMALL = 1024
"""Constants of fewer numbers are not worth a conversion."""


def write_onnx(folder: Path, system: AlignedSystem | TokenSystem) -> None:
    """Adds the ONNX files of a system and `onnx.json` to the exported voice in `folder`, that the system was loaded
    from; each is checked against PyTorch, and the greatest difference logged.

    ValueError for a system that cannot be exported, and for a file that does not give what PyTorch gives.
    """
    graphs = graphs_of(system)
    files = {graph.name: add_graph(folder, graph).sha256 for graph in graphs}
    frontend = read_model(folder).stages[next(iter(system.stages))].metadata
    content = {
        "format": FORMAT, "version": VERSION, "system": system.name, "files": files,
        "sample_rate": system.audio.sample_rate,
        "text": {"settings": frontend["config"]["text"], "state": frontend["text"]},
        "languages": system.languages, "speakers": system.speakers, "speaker_languages": system.speaker_languages,
        "seed_step": SEED_STEP, **_settings(system, graphs),
    }
    (folder / ONNX_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@dataclass
class Written:
    """An ONNX file that gives what PyTorch gives."""

    sha256: str
    difference: float
    """The greatest absolute one of all outputs for all real input."""


def add_graph(folder: Path, graph: Graph) -> Written:
    """Writes `<name>.onnx`; ValueError if it does not give what PyTorch gives."""
    path, content = folder / f"{graph.name}.onnx", _compact(_exported(graph)).SerializeToString()
    path.write_bytes(content)
    difference = _difference(graph, path)
    log.info("%s: %.1f MB, the greatest difference from PyTorch is %.1g", path.name, len(content) / 1e6, difference)
    return Written(hashlib.sha256(content).hexdigest(), difference)


def _settings(system: AlignedSystem | TokenSystem, graphs: list[Graph]) -> dict:
    """What only this kind of system has to say; see `onnx_runner`."""
    if isinstance(system, AlignedSystem):
        model = system.model
        return {
            "max_symbols": MAX_SYMBOLS, "frames_per_position": model.config.frames_per_position,
            "n_mels": system.audio.n_mels, "prosody": PROSODY_LIMITS,
            "sampling": asdict(Sampling()) if isinstance(model.decoder, FlowDecoder) else None,
        }
    lm = system.lm
    return {
        "sampling": asdict(Sampling()), "prosody": None, "offsets": graphs[0].module.offsets,
        "cache_shape": graphs[0].module.cache_shape, "max_positions": lm.config.max_positions,
        "n_codebooks": lm.n_codebooks, "codebook_size": lm.codebook_size, "hidden": system.hidden,
        "frames_per_symbol": system.frames_per_symbol, "bound_margin": BOUND_MARGIN,
        "bound_seconds": BOUND_FRAMES_SECONDS, "code_frame_rate": system.code_frame_rate,
        "mel_frames_per_code": system.to_wave.ratio, "decoder_speakers": system.decoder_speakers,
    }


def _exported(graph: Graph) -> onnx.ModelProto:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # they tell every step, and warn of libraries that are not needed
    dimensions = {name: torch.export.Dim(name) for axes in graph.lengths.values() for name in axes.values()}
    shapes = {name: {axis: dimensions[length] for axis, length in graph.lengths.get(name, {}).items()}
              for name in graph.traced}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention, which no ONNX operator stands for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the exporter's own code is told
            # traced here, because torch.onnx.export would take another way, with fixed lengths, if this one fails
            traced = torch.export.export(graph.module.eval(), (), graph.traced, dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(traced, input_names=list(graph.traced), output_names=graph.outputs,
                                        dynamo=True, external_data=False, verbose=False)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return program.model_proto


def _compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants whose values fp16 can hold, as those of an fp16 voice are, are kept in it; they are read as float32.
    Where in the source each operator comes from is left out, with the names of this machine's folders."""
    inner = model.graph
    for one in (inner, *inner.node, *inner.input, *inner.output, *inner.value_info):
        del one.metadata_props[:]
    kept, casts = [], []
    for constant in inner.initializer:
        values = numpy_helper.to_array(constant)
        if constant.data_type == TensorProto.FLOAT and values.size >= SMALL:
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if np.array_equal(half.astype(np.float32), values):
                name = f"{constant.name}.fp16"
                casts.append(helper.make_node("Cast", [name], [constant.name], to=TensorProto.FLOAT))
                constant = numpy_helper.from_array(half, name)
        kept.append(constant)
    graph = helper.make_graph([*casts, *inner.node], inner.name, inner.input, inner.output, kept,
                              value_info=inner.value_info)
    compact = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions,
                                ir_version=model.ir_version, producer_name=model.producer_name)
    onnx.checker.check_model(compact)
    return compact


@torch.inference_mode()
def _difference(graph: Graph, path: Path) -> float:
    """The greatest absolute one between what a file and PyTorch give for real input; ValueError if it is too great."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    greatest = 0.0
    for given in graph.real:
        expected = graph.module(**given)
        found = session.run(graph.outputs, {name: value.numpy() for name, value in given.items()})
        for name, theirs, ours in zip(graph.outputs, [expected] if isinstance(expected, Tensor) else expected, found,
                                      strict=True):
            difference = np.abs(ours - theirs.numpy()).max(initial=0) if ours.shape == theirs.shape else np.inf
            if not difference <= TOLERANCE:
                raise ValueError(f"{path.name}: {name} {list(ours.shape)} is not what PyTorch gives, "
                                 f"{list(theirs.shape)}, but {difference:.2g} from it: use the versions of onnx, "
                                 "onnxscript and onnxruntime in requirements-export.txt")
            greatest = max(greatest, float(difference))
    return greatest
