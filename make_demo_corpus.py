"""A small corpus in three languages, spoken on the spot by espeak-ng: nothing to download, and every phoneme timed.

    python3 make_demo_corpus.py -o data/demo

Writes `wavs/*.wav` (22.05 kHz), `train.txt` and `validation.txt` (`path|speaker|language|text`), and `phonemes.json`:
for each path the `[ipa, start in seconds]` of every phoneme as it was spoken, an empty ipa being a pause.
"""

import argparse
import ctypes
import json
import logging
import os
import random
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile
from tqdm import tqdm

import cli
from data_utils import Clip, write_filelist

log = logging.getLogger(__name__)

VALIDATION_FRACTION = 0.05


@dataclass(frozen=True)
class Voice:
    """A speaker: one of espeak-ng's voices with a variant, and the phrases it says.

    `patterns` are filled from `subjects`, `actions` (verb, rest) and `times`; subject2 ... are a second draw.
    """

    speaker: str
    language: str
    variant: str
    patterns: tuple[str, ...]
    subjects: tuple[str, ...]
    actions: tuple[tuple[str, str], ...]
    times: tuple[str, ...]


ENGLISH = Voice(
    "ella", "en-us", "f3",
    ("{subject} {verb} {rest} {time}.", "{time}, {subject} {verb} {rest}.",
     "{subject} {verb} {rest}, but {subject2} {verb2} {rest2}."),
    ("the old fisherman", "my younger sister", "a quiet librarian", "our cheerful neighbor", "the tired nurse",
     "this clever boy", "her favorite uncle", "the village judge", "a famous chef", "the new pilot", "George",
     "his grandmother", "the shy musician", "that busy farmer", "Victoria", "the youngest sailor"),
    (("reads", "a thick book about whales"), ("drinks", "hot chocolate with cinnamon"), ("fixes", "the broken window"),
     ("watches", "the yellow leaves fall"), ("paints", "a huge purple dragon"), ("sings", "in the church choir"),
     ("catches", "the early bus to town"), ("bakes", "fresh bread and apple pie"), ("walks", "along the rough shore"),
     ("enjoys", "a long nap by the fire"), ("teaches", "five children to swim"), ("counts", "the ships in the harbor"),
     ("measures", "the depth of the river"), ("throws", "the ball over the hedge"), ("hides", "a golden treasure"),
     ("thanks", "everyone for the birthday cake"), ("sharpens", "all the kitchen knives"),
     ("usually wears", "a bright orange jacket"), ("questions", "the judge about the law"),
     ("chews", "gum and whistles loudly")),
    ("every morning", "on Thursday", "just before sunset", "in the middle of winter", "after the show",
     "without a word", "once a month", "during the storm", "at half past six", "at the edge of the woods",
     "as quickly as possible", "under the bridge"),
)
GERMAN = Voice(
    "bruno", "de", "m3",
    ("{subject} {verb} {time} {rest}.", "{time} {verb} {subject} {rest}.",
     "{subject} {verb} {rest}, aber {subject2} {verb2} {rest2}."),
    ("der alte Fischer", "meine kleine Schwester", "ein höflicher Lehrer", "unsere Nachbarin", "die müde Ärztin",
     "dieser kluge Junge", "ihr lieber Onkel", "der strenge Richter", "die berühmte Köchin", "Jürgen",
     "seine Großmutter", "der schüchterne Musiker", "die fleißige Bäuerin", "Charlotte", "das jüngste Mädchen",
     "der neue Bürgermeister"),
    (("liest", "ein dickes Buch über Wale"), ("trinkt", "heiße Schokolade mit Zimt"),
     ("repariert", "das zerbrochene Fenster"), ("kauft", "frische Brötchen und Käse"),
     ("zeichnet", "einen großen grünen Drachen"), ("singt", "im Chor der Kirche"), ("bäckt", "einen Apfelkuchen"),
     ("sucht", "die verlorenen Schlüssel"), ("pflückt", "Kirschen und Pflaumen"), ("hört", "schöne Musik im Radio"),
     ("zählt", "die Schiffe im Hafen"), ("wirft", "den Ball über den Zaun"), ("versteckt", "einen goldenen Schatz"),
     ("schreibt", "einen langen Brief nach Zürich"), ("füttert", "zwölf hungrige Enten"),
     ("öffnet", "die knarrende Tür"), ("erzählt", "eine unglaubliche Geschichte"),
     ("genießt", "die Ruhe am See"), ("spielt", "Schach gegen den Bruder"), ("putzt", "die schmutzigen Stiefel")),
    ("jeden Morgen", "am Donnerstag", "kurz vor Sonnenuntergang", "mitten im Winter", "nach der Vorstellung",
     "ohne ein Wort", "einmal im Monat", "während des Gewitters", "um halb sieben", "zwischen den hohen Bäumen",
     "so schnell wie möglich", "unter der Brücke"),
)
SPANISH = Voice(
    "lucia", "es", "f4",
    ("{subject} {verb} {rest} {time}.", "{time}, {subject} {verb} {rest}.",
     "{subject} {verb} {rest}, pero {subject2} {verb2} {rest2}."),
    ("el viejo pescador", "mi hermana pequeña", "una profesora tranquila", "nuestro vecino", "la enfermera cansada",
     "este muchacho listo", "su tío favorito", "el juez del pueblo", "un cocinero famoso", "Guillermo", "la abuela",
     "el músico tímido", "aquella campesina", "Ximena", "el joven marinero", "la nueva alcaldesa"),
    (("lee", "un libro grueso sobre ballenas"), ("bebe", "chocolate caliente con canela"),
     ("arregla", "la ventana rota"), ("mira", "las hojas amarillas"), ("dibuja", "un dragón verde y rojo"),
     ("canta", "en el coro de la iglesia"), ("coge", "el autobús temprano"), ("hornea", "pan fresco con ajo"),
     ("camina", "por la orilla del río"), ("busca", "las llaves perdidas"), ("cuenta", "los barcos del puerto"),
     ("lanza", "la pelota por encima del muro"), ("esconde", "un tesoro dorado"), ("escribe", "una carta larguísima"),
     ("escucha", "la lluvia de la noche"), ("enseña", "a nadar a cinco niños"), ("compra", "queso, huevos y cebollas"),
     ("riega", "las flores del jardín"), ("juega", "al ajedrez con su primo"), ("abre", "la puerta con cuidado")),
    ("cada mañana", "el jueves", "antes del anochecer", "en pleno invierno", "después de la función",
     "sin decir nada", "una vez al mes", "durante la tormenta", "a las seis y media", "entre los árboles altos",
     "lo más rápido posible", "debajo del puente"),
)
VOICES = (ENGLISH, GERMAN, SPANISH)


def sentences(voice: Voice, count: int) -> list[str]:
    """`count` different sentences, the same ones every time; ValueError if the phrases do not give so many."""
    limit = len(voice.subjects) * len(voice.actions) * len(voice.times)
    if count > limit:
        raise ValueError(f"at most {limit * len(VOICES)} sentences can be made")
    draw = random.Random(voice.language)
    made: dict[str, None] = {}
    while len(made) < count:
        subject, subject2 = draw.sample(voice.subjects, 2)
        (verb, rest), (verb2, rest2) = draw.sample(voice.actions, 2)
        sentence = draw.choice(voice.patterns).format(
            subject=subject, verb=verb, rest=rest, time=draw.choice(voice.times),
            subject2=subject2, verb2=verb2, rest2=rest2,
        )
        made[sentence[0].upper() + sentence[1:]] = None
    return list(made)


class _Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    class _Id(ctypes.Union):
        _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]

    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_SYNCHRONOUS = 2  # espeak_Synth returns when all is spoken, having called back in this thread
_PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT = 1, 2, 0x8000
_LIST_TERMINATED, _PHONEME = 0, 7
_UTF8 = 1


class Espeak:
    """One voice of espeak-ng, `en-us` or with a variant `en-us+f3`; ValueError if there is none of this name.

    The library keeps state from one utterance to the next, so each object loads a copy of its own: what it says
    depends only on what it said before. Not thread-safe.
    """

    def __init__(self, voice: str):
        packaged = Path(espeakng_loader.get_library_path())
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self._library = ctypes.CDLL(shutil.copy(packaged, Path(folder) / packaged.name))
            options = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
            data = espeakng_loader.get_data_path()
            self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), options)
        if self.sample_rate <= 0:
            raise ValueError(f"espeak-ng does not start with the data in {data}: install espeakng-loader again")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice '{voice}'")

    def speak(self, text: str) -> tuple[np.ndarray, list[tuple[str, float]]]:
        """(samples int16, (ipa, start in seconds) of each phoneme)."""
        chunks: list[np.ndarray] = []
        phonemes: list[tuple[str, float]] = []

        @_Callback
        def collect(wave, count, events):
            if wave:
                chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
            index = 0
            while events[index].type != _LIST_TERMINATED:
                if events[index].type == _PHONEME:
                    phonemes.append((events[index].id.string.decode(), events[index].sample / self.sample_rate))
                index += 1
            return 0

        self._library.espeak_SetSynthCallback(collect)
        encoded = text.encode()
        status = self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _UTF8, None, None)
        if status != 0 or not chunks:
            raise ValueError(f"espeak-ng cannot speak '{text}' (status {status})")
        return np.concatenate(chunks), phonemes


def _speak_all(clips: list[Clip], voice: Voice) -> list[list[tuple[str, float]]]:
    """Writes the audio of one voice's clips; returns their phonemes."""
    espeak = Espeak(f"{voice.language}+{voice.variant}")
    spoken = []
    for clip in clips:
        samples, phonemes = espeak.speak(clip.text)
        temporary = clip.path.with_name(f".unfinished_{clip.path.name}")
        soundfile.write(temporary, samples, espeak.sample_rate)
        temporary.replace(clip.path)
        spoken.append([(ipa, round(start, 5)) for ipa, start in phonemes])
    return spoken


def make_corpus(out: Path, count: int) -> None:
    """Speaks `count` sentences, the voices in turn, and writes the corpus; the filelists come last."""
    if count < 2 * len(VOICES):
        raise ValueError(f"--sentences {count}: make it at least {2 * len(VOICES)}, two for each voice")
    (out / "wavs").mkdir(parents=True, exist_ok=True)
    of_voice = [
        [Clip(out / "wavs" / f"{voice.speaker}_{number:04d}.wav", text, voice.speaker, voice.language)
         for number, text in enumerate(sentences(voice, len(range(first, count, len(VOICES)))))]
        for first, voice in enumerate(VOICES)
    ]
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(VOICES))) as pool:
        spoken = list(tqdm(pool.map(_speak_all, of_voice, VOICES), total=len(VOICES), unit="voice"))

    clips = [clip for turn in zip_longest(*of_voice) for clip in turn if clip is not None]
    timed = {clip.path.relative_to(out).as_posix(): phonemes
             for clip, phonemes in zip(chain(*of_voice), chain(*spoken), strict=True)}
    temporary = out / "phonemes.json.tmp"
    temporary.write_text(json.dumps(timed, ensure_ascii=False), encoding="utf-8")
    temporary.replace(out / "phonemes.json")
    held_out = max(len(VOICES), round(count * VALIDATION_FRACTION))
    write_filelist(out / "train.txt", clips[:-held_out])
    write_filelist(out / "validation.txt", clips[-held_out:])
    log.info("%d sentences in %d languages: %s", count, len(VOICES), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("data/demo"))
    parser.add_argument("--sentences", type=int, default=300, help="in all languages together (default 300)")
    values = parser.parse_args()
    make_corpus(values.output, values.sentences)


if __name__ == "__main__":
    cli.run(main)
