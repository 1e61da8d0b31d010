# CI uses the same commands. `make` without a target lists them.

VENV ?= .venv
PY := $(VENV)/bin/python
WORKERS ?= $(shell nproc)

PORT ?= 8000
CHECKPOINT ?= models/tiny

# Keep bytecode files. Without them, each test process compiles the tests and pytest's plugins again, and each program that
# a test starts compiles our code again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install tools demo review retrain-demo compose-demo serve test test-fast test-all check checkov docs bench bench-train observe images tiny clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: ## make .venv with everything pinned (TORCH_INDEX=…, EXTRA=gpu: see README)
	@.ci/install $(VENV)

demo: install ## start the service with real vLLM on the CPU, screen the example products, stop the service
	@$(PY) clients/python/examples/demo.py

review: install ## judge the example products in the browser on http://127.0.0.1:8000/review (PORT=…); Ctrl-C ends it
	@$(PY) clients/python/examples/review_demo.py --port $(PORT)

retrain-demo: install ## screen, correct, retrain, promote: the same questions may be answered differently (slow)
	@$(PY) clients/python/examples/retrain_demo.py

compose-demo: install ## cut products out of photos and compose four pictures of each; the page is in runs/compose-demo
	@$(PY) clients/python/examples/compose_demo.py

serve: install ## serve models/tiny on port 8000 (CHECKPOINT=…, PORT=…)
	@$(PY) -m service --checkpoint $(CHECKPOINT) --port $(PORT)

tools: install # promtool, prometheus and alertmanager, which no Python package brings
	@.ci/monitoring-tools $(VENV)/bin

# Two processes, because the smallest machine has two cores. More would only wait for the engine.
test: tools ## run the tests that a change can break, 11 to 15 minutes on two cores
	@$(PY) -m pytest -n 2 -m "not exhaustive"

test-fast: tools ## run the quick tests, about 90 s on two cores: units, contracts and the scripted engine
	@$(PY) -m pytest -n 2 -m "not exhaustive and not slow and not vllm"

test-all: tools ## run every test, also all broken checkpoints, kills and soaks
	@$(PY) -m pytest -n 2

check: install ## lint and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

checkov: install ## check the manifests of k8s/ against common security mistakes
	@KUBECTL=$(VENV)/bin/kubectl .ci/checkov build/checkov

docs: install ## build the documentation as a site, into site/
	@$(PY) -m pip install -qq --constraint constraints.txt --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench: install ## measure the service under load, and vLLM's own server and transformers as baselines
	@$(PY) -m loadtest bench --baselines

bench-train: install ## compare the speed of a reinforcement learning step with TRL's own trainer
	@$(PY) -m trainer bench-train

# ARGS="--base-url URL" looks at a service that already runs; `python -m loadtest observe --help` lists the options.
observe: tools ## start Prometheus and Alertmanager on a service under load, and show each dashboard query's value
	@$(PY) -m loadtest observe $(ARGS)

images: ## build the service's CPU image with buildah, and screen with it as an unprivileged user
	@k8s/images/build

# Train models/tiny again from random weights: about four and a half hours on two cores. Minutes: pool of pictures 21,
# see 34, read 68, speak 123, all other steps 25. The pictures of the training take 8.4 GB.
# It was run in parts, never from start to end.
# A killed training continues; a killed render starts over.
# The result is written to TINY. To change models/tiny, copy TINY/published/… there.
TINY ?= runs/tiny
RECIPE ?= tiny
ANSWER_SAMPLES ?= 1044
TEST_SAMPLES ?= 468
# Samples that calibrate the confidence. They resemble the test data but are in neither training nor test data.
VALIDATION_SAMPLES ?= 1000

tiny: install ## render, train and evaluate the included checkpoint again, in runs/tiny
	$(PY) -m trainer render --count $(ANSWER_SAMPLES) --seed 62 --size 192 --workers $(WORKERS) --out $(TINY)/data-answer
	$(PY) -m trainer render --count $(TEST_SAMPLES) --seed 13 --workers $(WORKERS) --out $(TINY)/data-test
	$(PY) -m trainer render --count $(VALIDATION_SAMPLES) --seed 64 --workers $(WORKERS) --out $(TINY)/data-validation
	$(PY) -m trainer pretrain --recipe $(RECIPE) --out $(TINY)/pretrain
	$(PY) -m trainer sft --recipe $(RECIPE) --stage answer-driven \
		--checkpoint $(TINY)/pretrain/checkpoint --data $(TINY)/data-answer --out $(TINY)/sft
	$(PY) -m trainer evaluate --mode cot \
		--checkpoint $(TINY)/sft/checkpoint --data $(TINY)/data-validation --out $(TINY)/validation-cot
	$(PY) -m trainer evaluate --mode direct \
		--checkpoint $(TINY)/sft/checkpoint --data $(TINY)/data-validation --out $(TINY)/validation-direct
	$(PY) -m trainer calibrate --checkpoint $(TINY)/sft/checkpoint \
		--evaluations $(TINY)/validation-cot $(TINY)/validation-direct
	$(PY) -m trainer domain --checkpoint $(TINY)/sft/checkpoint \
		--data $(TINY)/data-validation --trained-on "rendered product pictures"
	$(PY) -m trainer evaluate --mode cot \
		--checkpoint $(TINY)/sft/checkpoint --data $(TINY)/data-test --out $(TINY)/scores-cot
	$(PY) -m trainer evaluate --mode direct \
		--checkpoint $(TINY)/sft/checkpoint --data $(TINY)/data-test --out $(TINY)/scores-direct
	$(PY) -m trainer evaluate --locate \
		--checkpoint $(TINY)/sft/checkpoint --data $(TINY)/data-test --out $(TINY)/scores-locate
	$(PY) -m trainer card --checkpoint $(TINY)/sft/checkpoint \
		--evaluations $(TINY)/scores-cot $(TINY)/scores-direct $(TINY)/scores-locate
	$(PY) -m trainer publish --checkpoint $(TINY)/sft/checkpoint --store $(TINY)/published

clean: ## remove build and cache files, but not the environment
	rm -rf build site *.egg-info clients/python/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find screening service trainer loadtest clients tests -name __pycache__ -type d -prune -exec rm -rf {} +
