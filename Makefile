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

# Train models/tiny again from random weights: four rounds of pretraining, the paper's stages 1 and 2, two more rounds,
# stage 2 again, two rounds that teach where the faults are, and two that train the vision tower alone first.
# Minutes on two shared cores (pool of pictures / see / read / speak): first round 6 / 21 / 49 / 23, second 9 / - / 65 / 35,
# third 5 / - / 63 / 28, fourth 6 / - / 83 / 31 (on one core), fifth 15 / - / 80 / 21 (on one core), sixth 5 / - / 20 /
# 28, seventh 11 / - / 21 / 36, eighth - / - / 15 / 50, ninth - / 13 / 25 / 37, tenth 21 / 30 / 20 / 26.
# Data of stages 1 and 2: 7. Stage 1.1: 21 (on one core). Stage 1.2: 5. Hard cases: 5. Stage 2: 22, and 31 the second time. All other steps: 20.
# In all about 17 hours, and 54 GB of disk for the pools in TINY/*/pool. It was never run in one go at full size.
# A killed training continues; a killed render starts over.
# The result is written to TINY. To change models/tiny, copy TINY/published/… there.
TINY ?= runs/tiny
FIRST_RECIPE ?= tiny
SECOND_RECIPE ?= tiny-pretrain-2
THIRD_RECIPE ?= tiny-pretrain-3
FOURTH_RECIPE ?= tiny-pretrain-4
# After stage 2, each with an SFT of its own
FIFTH_RECIPE ?= tiny-pretrain-5
SIXTH_RECIPE ?= tiny-pretrain-6
# After stage 2 on the further questions, with places, on one pool
SEVENTH_RECIPE ?= tiny-pretrain-locate
EIGHTH_RECIPE ?= tiny-pretrain-locate-2
# After the eighth, on the same pool
NINTH_RECIPE ?= tiny-pretrain-vision
# After the ninth, on more products
TENTH_RECIPE ?= tiny-pretrain-vision-2
# Recipe of stages 1 and 2. The numbers of samples are those of the paper, except for the questions of stage 2.
RECIPE ?= tiny-rl
WEAK_SAMPLES ?= 10724
# The paper's teacher was right on 38.25 % of the samples.
TEACHER_ERRORS ?= 0.6175
ANSWER_SAMPLES ?= 1044
QUESTIONS ?= 6000
MORE_QUESTIONS ?= 5000
TEST_SAMPLES ?= 468
# Samples that calibrate the confidence. They resemble the test data but are in neither training nor test data.
VALIDATION_SAMPLES ?= 1000

tiny: install ## render, train and evaluate the included checkpoint again, in runs/tiny
	$(PY) -m trainer render --count $(WEAK_SAMPLES) --seed 51 --size 192 --workers $(WORKERS) --out $(TINY)/data-pseudo
	$(PY) -m trainer annotate ground-truth --error-rate $(TEACHER_ERRORS) \
		--data $(TINY)/data-pseudo --out $(TINY)/data-weak
	$(PY) -m trainer render --count $(ANSWER_SAMPLES) --seed 52 --size 192 --workers $(WORKERS) --out $(TINY)/data-answer
	$(PY) -m trainer render --count $(ANSWER_SAMPLES) --seed 62 --size 192 --workers $(WORKERS) --out $(TINY)/data-answer-2
	$(PY) -m trainer render --count $(QUESTIONS) --seed 53 --size 192 --workers $(WORKERS) --out $(TINY)/data-questions
	$(PY) -m trainer render --count $(MORE_QUESTIONS) --seed 63 --size 192 --workers $(WORKERS) --out $(TINY)/data-questions-2
	$(PY) -m trainer render --count $(TEST_SAMPLES) --seed 13 --workers $(WORKERS) --out $(TINY)/data-test
	$(PY) -m trainer render --count $(VALIDATION_SAMPLES) --seed 14 --workers $(WORKERS) --out $(TINY)/data-validation
	$(PY) -m trainer pretrain --recipe $(FIRST_RECIPE) --out $(TINY)/first
	$(PY) -m trainer pretrain --recipe $(SECOND_RECIPE) --start $(TINY)/first/checkpoint --out $(TINY)/second
	$(PY) -m trainer pretrain --recipe $(THIRD_RECIPE) --start $(TINY)/second/checkpoint --out $(TINY)/third
	$(PY) -m trainer pretrain --recipe $(FOURTH_RECIPE) --start $(TINY)/third/checkpoint --out $(TINY)/pretrain
	$(PY) -m trainer sft --recipe $(RECIPE) --stage weak \
		--checkpoint $(TINY)/pretrain/checkpoint --data $(TINY)/data-weak --out $(TINY)/sft-weak
	$(PY) -m trainer sft --recipe $(RECIPE) --stage answer-driven \
		--checkpoint $(TINY)/sft-weak/checkpoint --data $(TINY)/data-answer --out $(TINY)/sft-answer
	$(PY) -m trainer hard-cases --checkpoint $(TINY)/sft-answer/checkpoint --data $(TINY)/data-questions --out $(TINY)/hard
	$(PY) -m trainer hcm-grpo --recipe $(RECIPE) --checkpoint $(TINY)/sft-answer/checkpoint \
		--data $(TINY)/data-questions --hard-cases $(TINY)/hard --out $(TINY)/hcm-grpo
	$(PY) -m trainer pretrain --recipe $(FIFTH_RECIPE) --start $(TINY)/hcm-grpo/checkpoint --out $(TINY)/fifth
	$(PY) -m trainer sft --recipe $(FIFTH_RECIPE) --stage answer-driven \
		--checkpoint $(TINY)/fifth/checkpoint --data $(TINY)/data-answer-2 --out $(TINY)/fifth-answer
	$(PY) -m trainer pretrain --recipe $(SIXTH_RECIPE) --start $(TINY)/fifth-answer/checkpoint --out $(TINY)/sixth
	$(PY) -m trainer sft --recipe $(SIXTH_RECIPE) --stage answer-driven \
		--checkpoint $(TINY)/sixth/checkpoint --data $(TINY)/data-answer-2 --out $(TINY)/sixth-answer
	$(PY) -m trainer hard-cases \
		--checkpoint $(TINY)/sixth-answer/checkpoint --data $(TINY)/data-questions-2 --out $(TINY)/hard-2
	$(PY) -m trainer hcm-grpo --recipe $(RECIPE) --checkpoint $(TINY)/sixth-answer/checkpoint \
		--data $(TINY)/data-questions-2 --hard-cases $(TINY)/hard-2 --out $(TINY)/hcm-grpo-2
	$(PY) -m trainer pretrain --recipe $(SEVENTH_RECIPE) --start $(TINY)/hcm-grpo-2/checkpoint --out $(TINY)/seventh
	$(PY) -m trainer pretrain --recipe $(EIGHTH_RECIPE) \
		--start $(TINY)/seventh/checkpoint --pool $(TINY)/seventh/pool --out $(TINY)/eighth
	$(PY) -m trainer sft --recipe $(EIGHTH_RECIPE) --stage answer-driven \
		--checkpoint $(TINY)/eighth/checkpoint --data $(TINY)/data-answer-2 --out $(TINY)/eighth-answer
	$(PY) -m trainer pretrain --recipe $(NINTH_RECIPE) \
		--start $(TINY)/eighth-answer/checkpoint --pool $(TINY)/seventh/pool --out $(TINY)/ninth
	$(PY) -m trainer sft --recipe $(NINTH_RECIPE) --stage answer-driven \
		--checkpoint $(TINY)/ninth/checkpoint --data $(TINY)/data-answer-2 --out $(TINY)/ninth-answer
	$(PY) -m trainer pretrain --recipe $(TENTH_RECIPE) --start $(TINY)/ninth-answer/checkpoint --out $(TINY)/tenth
	$(PY) -m trainer sft --recipe $(TENTH_RECIPE) --stage answer-driven \
		--checkpoint $(TINY)/tenth/checkpoint --data $(TINY)/data-answer-2 --out $(TINY)/last
	$(PY) -m trainer evaluate --mode cot \
		--checkpoint $(TINY)/last/checkpoint --data $(TINY)/data-validation --out $(TINY)/validation-cot
	$(PY) -m trainer evaluate --mode direct \
		--checkpoint $(TINY)/last/checkpoint --data $(TINY)/data-validation --out $(TINY)/validation-direct
	$(PY) -m trainer calibrate --checkpoint $(TINY)/last/checkpoint \
		--evaluations $(TINY)/validation-cot $(TINY)/validation-direct
	$(PY) -m trainer domain --checkpoint $(TINY)/last/checkpoint \
		--data $(TINY)/data-validation --trained-on "drawn product pictures"
	$(PY) -m trainer evaluate --mode cot \
		--checkpoint $(TINY)/last/checkpoint --data $(TINY)/data-test --out $(TINY)/scores-cot
	$(PY) -m trainer evaluate --mode direct \
		--checkpoint $(TINY)/last/checkpoint --data $(TINY)/data-test --out $(TINY)/scores-direct
	$(PY) -m trainer evaluate --locate \
		--checkpoint $(TINY)/last/checkpoint --data $(TINY)/data-test --out $(TINY)/scores-locate
	$(PY) -m trainer card --checkpoint $(TINY)/last/checkpoint \
		--evaluations $(TINY)/scores-cot $(TINY)/scores-direct $(TINY)/scores-locate
	$(PY) -m trainer publish --checkpoint $(TINY)/last/checkpoint --store $(TINY)/published

clean: ## remove build and cache files, but not the environment
	rm -rf build site *.egg-info clients/python/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find screening service trainer loadtest clients tests -name __pycache__ -type d -prune -exec rm -rf {} +
