# Every target sets up what it needs: Python 3.11 and make are all a machine must have.
PYTHON ?= python3
PIP = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ROOMS = mdrt export runtime kernels benchmarks
SOURCES := $(shell find $(ROOMS) pyproject.toml -type f ! -path '*/__pycache__/*' ! -name '*.so')
OLD_PYTHON = mdrt needs Python 3.11 or newer; found %d.%d; run make PYTHON=python3.12, or whichever is installed
NEW_VENV = $(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit("$(OLD_PYTHON)" % v)' && $(PYTHON) -m venv

.PHONY: demo test extras-test triton-test gpu-test lint attack model embedded figures evaluation speed raster clean

demo: .venv-run/installed  ## segment the example pictures, with names and without
	.venv-run/bin/mdrt segment examples --classes examples/classes.txt --out out/named
	.venv-run/bin/mdrt segment examples --unsupervised --out out/unnamed
	@echo "Look at out/named/*.overlay.png and out/unnamed/*.overlay.png"

test: lint  ## lint, types, then every test, on the installed package
	.venv-dev/bin/pytest -n 2 --dist loadfile

extras-test: .venv-dev/installed  ## what each extra installs, in empty environments (a minute or two)
	.venv-dev/bin/pytest -m extras

# The server's python backend needs NumPy 1; the rest is as elsewhere, outside constraints.txt.
triton-test:  ## a model repository against a real Triton server, which a wheel carries (a minute or two; no GPU)
	@test -x .venv-triton/bin/python || { $(NEW_VENV) .venv-triton; }
	.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check 'nvidia-pytriton>=0.7' \
	    'numpy==1.26.*' 'tritonclient[all]' pytest '.[cpu]'
	PYTHONPATH=. .venv-triton/bin/python -m pytest tests/tritonserver

gpu-test:  ## what needs an NVIDIA GPU, with what PYTHON has; installs nothing, skips by name
	@$(PYTHON) -c 'import click, hypothesis, numpy, onnxruntime, PIL, pytest, rich, tokenizers' || \
	    { echo "make gpu-test installs nothing: give a PYTHON that has these packages"; exit 1; }
	$(PYTHON) -m mdrt.benchmarks.lab.device.gpu_test

lint: .venv-dev/installed
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .
	cd .venv-dev && bin/mypy --config-file ../pyproject.toml  # beside the installed package

LAB = PYTHONSAFEPATH=1 .venv-dev/bin/python -m mdrt.benchmarks.lab
PIPELINE = work/scenes/storybook
STORYBOOK = --weights fp16 --attention-strides 16 --self-attention-strides 16 --classes benchmarks/lab/scenes/classes.txt \
    --recommend benchmarks/lab/scenes/recommended.toml
DEVICE ?= cpu
RECIPE ?= shipped
model: .venv-dev/installed  ## train the embedded model from nothing (2.5 to 3 hours on two cores, minutes with DEVICE=cuda; resumes)
	$(LAB) train --device $(DEVICE) --recipe $(RECIPE) --out $(PIPELINE)
	$(MAKE) embedded

embedded: $(PIPELINE)  ## export it anew into the package
	.venv-dev/bin/mdrt export $(PIPELINE) --out mdrt/assets/scenes --overwrite $(STORYBOOK) --feature-strides 16
	$(LAB) storybook --keep $(PIPELINE) --engine mdrt/assets/scenes

$(PIPELINE): | .venv-dev/installed
	$(LAB) storybook $@

figures: .venv-dev/installed  ## the figures of docs/notes/figures.md
	$(LAB) scenes
	$(LAB) embedded
	$(LAB) kernels

ATTACK = --runs $(if $(LONG),20000,400) --every $(if $(LONG),1,8) --calls $(if $(LONG),10000,1000)
attack: .venv-dev/installed  ## mutated inputs, kills, full disks, no memory, sanitizers: minutes; LONG=1: hours (docs/notes/attack.md)
	$(LAB) attack $(ATTACK) --starved $(if $(LONG),2000,40) --guided $(if $(LONG),200000,0) --keep work/attack
	.venv-dev/bin/pytest tests/attack
	.venv-dev/bin/pytest tests/kernels/test_cuda.py -k sanitizers

EVAL = work/eval
evaluation: .venv-dev/installed $(EVAL)/storybook  ## docs/notes/claims.md: the paper's ablations on 500 scenes (a quarter of an hour; resumes)
	.venv-dev/bin/mdrt eval sweep scenes --engine $(EVAL)/storybook --out $(EVAL)/scenes
	$(LAB) claims $(EVAL)/scenes --engine $(EVAL)/storybook --out docs/notes

$(EVAL)/storybook: | $(PIPELINE)
	.venv-dev/bin/mdrt export $(PIPELINE) --out $@ $(STORYBOOK) --feature-strides 64,32,16

SPEED = work/speed
BENCH = .venv-bench/bin/mdrt bench
LAB_bench = $(subst -dev,-bench,$(LAB))
speed: $(SPEED)/sd14-onnx $(SPEED)/sd14-taesd $(SPEED)/sd14-int8  ## the figures of docs/notes/speed.md, at Stable Diffusion 1.4's size
	$(BENCH) latency --engine $(SPEED)/sd14-onnx --pipeline $(SPEED)/sd14 --images 2 --rounds 1 --out $(SPEED) \
	    --against $(SPEED)/sd14-taesd,onnxruntime,openvino,mnn,torch,official
	$(BENCH) latency --engine $(SPEED)/sd14-onnx --images 2 --rounds 1 --out $(SPEED)/precision \
	    --against $(SPEED)/sd14-int8,openvino-bf16
	$(BENCH) growth --engine $(SPEED)/sd14-taesd --images-at 1,8 --out $(SPEED)

$(SPEED)/sd14 $(SPEED)/taesd: $(SPEED)/%: | .venv-bench/installed
	$(LAB_bench) pipeline $* --out $@

$(SPEED)/sd14-onnx: | $(SPEED)/sd14
	.venv-bench/bin/mdrt export $(SPEED)/sd14 --out $@

$(SPEED)/sd14-taesd: | $(SPEED)/sd14 $(SPEED)/taesd
	.venv-bench/bin/mdrt export $(SPEED)/sd14 --vae $(SPEED)/taesd --out $@

$(SPEED)/sd14-int8: | $(SPEED)/sd14-onnx
	$(LAB_bench) quantise $(SPEED)/sd14-onnx --out $@

RASTER = work/raster
SIDE ?= 20000
raster: .venv-dev/installed  ## time and memory of a drawn raster of SIDE² pixels (an hour on two cores; resumes)
	$(LAB) raster --side $(SIDE) --out $(RASTER) -- --set mode=paper

clean:
	rm -rf .venv-run .venv-dev .venv-bench .venv-triton build out work *.egg-info

INSTALLED_run = .[cpu]
INSTALLED_dev = .[cpu,export,dev]
INSTALLED_bench = .[cpu,export,bench]
# The laboratory is not in the wheel: where it is worked in, it stands beside what is installed.
LINK_dev = cd .venv-dev/lib/python3*/site-packages/mdrt/benchmarks && ln -sfn $(CURDIR)/benchmarks/lab lab
LINK_bench = $(subst -dev,-bench,$(LINK_dev))
.venv-%/installed: constraints.txt $(SOURCES)
	@test -x .venv-$*/bin/python || { $(NEW_VENV) .venv-$*; }
	rm -rf build  # setuptools would install what an older tree left there
	.venv-$*/bin/python $(PIP) '$(INSTALLED_$*)'
	.venv-$*/bin/python $(PIP) --force-reinstall --no-deps .
	$(LINK_$*)
	touch $@
