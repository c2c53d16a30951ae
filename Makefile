# `make demo`: from nothing to scored maps of made tiles. `make page`: its net in a page for browsers (takes node).
# `make notebooks`: Jupyter, for notebooks/. `make test`: the tests. All set up .venv first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
NITER ?= 800
PAGE ?= data/demo_page.html

.PHONY: demo page notebooks test test-all lint clean

demo: $(VENV)/ready
	$(RUN) -m tools.demo --out data/demo --overwrite
	$(RUN) convert_gt.py data/demo/gts_for_participants/*.tif --from-color --out data/demo/gts_numpy/ --overwrite
	$(RUN) convert_gt.py data/demo/gts_eroded_for_participants/*.tif --from-color --out data/demo/gts_eroded_numpy/ --overwrite
	$(RUN) extract_images.py --overwrite
	$(RUN) create_db.py --overwrite
	$(RUN) training.py --niter $(NITER) --overwrite
	$(RUN) inference.py 32 34 --overwrite

page: $(VENV)/ready
	$(RUN) -m tools.export "$$(ls data/demo_snapshots_unet_light_efficientnet_lite0/net_iter_*.safetensors | sort -V | tail -1)" --page $(PAGE) --overwrite

notebooks: $(VENV)/notebooks
	@echo "open them with $(VENV)/bin/jupyter lab notebooks/"

test: $(VENV)/ready
	$(RUN) -m pytest -q -m "not slow" -n 2 --dist loadfile --durations 15

test-all: $(VENV)/ready
	$(RUN) -m pytest -q -n 2 --dist loadfile --durations 30

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/notebooks: $(VENV)/ready requirements-notebooks.txt
	$(RUN) -m pip install --quiet -r requirements-notebooks.txt
	touch $@

clean:
	rm -rf $(VENV) data/demo data/demo_*
