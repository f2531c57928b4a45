# SPDX-License-Identifier: LGPL-2.1-or-later

.PHONY: demo test vm-test bench deb rpm

demo:
	@tools/setup
	@bin/virt-nvme-reset demo

test:
	@tools/setup test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q

vm-test:
	@tools/setup test vm
	.venv/bin/python -m pytest -o addopts=--strict-markers -q -n 2 --dist loadfile \
		--no-loadscope-reorder -rP tests/vm

bench:
	@tools/setup test
	.venv/bin/python -m tools.bench
	@tools/setup vm
	.venv/bin/python -m tests.vm.bench

deb:
	@tools/setup package
	@packaging/build deb

rpm:
	@tools/setup package
	@packaging/build rpm
