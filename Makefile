# Needs Python 3.11 and make; everything else goes into .venv.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
DEMO := configs/tiny/ipa_tts.json
CONFIG ?= configs/voice.json
MODEL ?= voice
RUN := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(PY)

.PHONY: demo voice notebooks test lint chromium clean-demo

demo: $(VENV)/installed  ## the voice that comes along, then a corpus and every stage for a short while; see outputs/
	$(RUN) synthesize.py --text "Hello world. This is the voice that comes with the repository." \
	    -o outputs/hello.wav --mel outputs/hello.png
	$(RUN) make_demo_corpus.py -o data/demo
	$(RUN) preprocess_ipa.py -i data/demo/train.txt -o data/demo/train_ipa.txt
	$(RUN) preprocess_ipa.py -i data/demo/validation.txt -o data/demo/validation_ipa.txt
	$(RUN) train_codec.py -c $(DEMO) -m demo
	$(RUN) preprocess_codes.py -c $(DEMO) -m demo
	$(RUN) train_llm.py -c $(DEMO) -m demo
	$(RUN) train_vocoder.py -c $(DEMO) -m demo
	$(RUN) synthesize.py -m demo --text "The quick brown fox jumps over the lazy dog." --seed 1 \
	    -o outputs/demo.wav --mel outputs/demo.png

voice: $(VENV)/installed-eval  ## a voice of your own: make voice VOICES=recordings [MODEL=name LANGUAGE=de CONFIG=file FROM=voice]
	@test -n "$(VOICES)" || { echo "error: say where the recordings are: make voice VOICES=folder" >&2; exit 2; }
	$(RUN) train_voice.py -i "$(VOICES)" -c $(CONFIG) -m $(MODEL) $(if $(LANGUAGE),--language $(LANGUAGE)) \
	    $(if $(FROM),--weights-from $(FROM))

notebooks: $(VENV)/installed-notebooks  ## opens the notebooks in a browser
	$(VENV)/bin/jupyter lab notebooks

test: $(VENV)/installed-dev lint chromium  ## ruff and all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadgroup

chromium:  ## the browser that the page is tested in, where it is missing and can be installed
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    apt-get install -qq -y --no-install-recommends chromium >/dev/null; then :; \
	else echo "no Chromium, and it cannot be installed here: tests in a browser will be skipped"; fi

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .

clean-demo:  ## forget the demo model and its data
	rm -rf data/demo checkpoints/demo logs/demo outputs/demo.wav outputs/demo.png

$(VENV)/bin/python:
	$$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install -q -r requirements.txt
	touch $@

$(VENV)/installed-eval: requirements-eval.txt $(VENV)/installed
	$(PY) -m pip install -q -r requirements-eval.txt
	touch $@

$(VENV)/installed-notebooks: requirements-notebooks.txt $(VENV)/installed
	$(PY) -m pip install -q -r requirements-notebooks.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-eval.txt requirements-export.txt requirements-onnx.txt \
    requirements-misaki.txt requirements-app.txt requirements-serve.txt $(VENV)/installed
	$(PY) -m pip install -q -r requirements-dev.txt
	touch $@
